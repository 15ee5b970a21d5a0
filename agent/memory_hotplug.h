// agent/memory_hotplug.h — puts blocks of memory online and takes them offline; where hot-plugged memory goes.
// Spec:    Documentation/admin-guide/mm/memory-hotplug.rst: /sys/devices/system/memory.
// virtio-mem: its driver adds and removes blocks by itself, in whatever part of its range it likes; what it adds is online at once under
//          the policy below, so MemoryOnline mostly waits. It takes blocks that are offline first when it has to give memory back.
// Threads: MakeMemoryJob on the loop's thread; the job is for a lane. SIGUSR1 is this file's: at the deadline it ends the offlining of
//          a block, which otherwise goes on for as long as some page of it is held.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "agent/kernel_files.h"
#include "agent/lane.h"
#include "proto/upcall.pb.h"
#include "ttrpc/call.h"

namespace wyvern::agent {

// Memory that is added later is online at once, in the movable zone (so that it can be taken away again) while that is at most eight
// times what the kernel had at boot, beyond that in the kernel's. `cmdline`: what it says of this is left alone.
void SetMemoryPolicy(const KernelFiles& files, const std::map<std::string, std::string>& cmdline);

// INVALID_ARGUMENT for what breaks the bounds of upcall.proto. `files` outlives the job.
Result<std::shared_ptr<Job>> MakeMemoryJob(const KernelFiles& files,
                                           const v1::MemoryRequest& request, bool online,
                                           Lane::TimePoint deadline,
                                           ttrpc::Responder<v1::MemoryResponse> responder);

}  // namespace wyvern::agent
