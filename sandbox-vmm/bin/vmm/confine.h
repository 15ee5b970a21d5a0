// vmm/confine.h — filters of threads that the machine and its devices start.
#pragma once

#include <string>

#include "jail/filter.h"
#include "worker/device_worker.h"

namespace wyvern::vmm {

// For the calling thread. One that could not be confined must not run guest-controlled work: the process ends.
void Confine(jail::ThreadKind kind);

// A worker's thread named after its device.
devices::WorkerOptions WorkerFor(const std::string& id,
                                 jail::ThreadKind kind = jail::ThreadKind::kDevice);

}  // namespace wyvern::vmm
