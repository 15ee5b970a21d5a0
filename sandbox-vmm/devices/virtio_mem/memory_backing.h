// virtio_mem/memory_backing.h — what is behind a device-managed region: made by the machine, which
// knows memslots and who else reaches guest memory.
// Threads: called on the device's worker, one call at a time. A call must not stop the queue of the
//          device that calls (its rings lie in other memory, it needs no new list); it may stop and
//          start those of other devices.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "mem/guest_memory.h"

namespace wyvern::devices {

struct MemoryRange {
  mem::Gpa start{};
  uint64_t size = 0;  // bytes
};

class MemoryBacking {
 public:
  virtual ~MemoryBacking() = default;
  // `range`: whole blocks of the region, all unplugged until now; one call for a request, however
  // many they are. From success on guest and devices reach them; their content is undefined. After
  // an error nothing has changed.
  virtual Result<> Plug(MemoryRange range) = 0;
  // `range`: all plugged until now. From success on its memory belongs to the host again, and
  // nobody reaches it (or: whoever does is charged for it). After an error nothing has changed.
  virtual Result<> Unplug(MemoryRange range) = 0;
  // The same for whatever is plugged.
  virtual Result<> UnplugAll() = 0;
};

}  // namespace wyvern::devices
