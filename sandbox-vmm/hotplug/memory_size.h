// hotplug/memory_size.h — how much memory the guest has beyond what it booted with, changed together with it.
// Shape:   virtio-mem is asked for a size; the guest's driver plugs and unplugs by itself. When it grows the agent puts online what came; when
//          the driver gets stuck on the way down, the agent takes offline what it can. At the deadline the request becomes what is reached,
//          so that nothing moves afterwards.
// Errors:  INVALID_ARGUMENT: not whole blocks, or beyond the region. A guest that does not follow, or is silent, is no error: the answer
//          tells how far it came.
// Threads: any; one change at a time (the caller's lock).
// Trust:   how much is plugged is the device's own number; `online` is what the guest says.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "upcall/session.h"

namespace wyvern::hotplug {

// A virtio-mem device.
class PluggableMemory {
 public:
  virtual ~PluggableMemory() = default;
  // The region in the guest's address space.
  virtual uint64_t start() const = 0;
  virtual uint64_t size() const = 0;
  // Bytes that the guest has now.
  virtual Result<uint64_t> plugged() const = 0;
  // Asks for so many: whole blocks.
  virtual Result<> Request(uint64_t bytes) = 0;
};

struct MemoryReached {
  uint64_t plugged = 0;
  uint64_t online = 0;  // of it, as the guest says; 0: it did not say
  std::string why;      // not as asked; empty: as asked
};

Result<MemoryReached> ResizeMemory(PluggableMemory& memory, upcall::Session& upcall, uint64_t bytes,
                                   upcall::Time deadline);

}  // namespace wyvern::hotplug
