// virtio/testing/ring_memory.h — the driver's accesses to a ring in GuestRam. Its side of the barriers
// is tested, too, so what both sides poll goes through atomics like a real driver's.
#pragma once

#include "base/check.h"
#include "virtio/testing/guest_ram.h"

namespace wyvern::virtio::testing {

inline mem::Gpa Plus(mem::Gpa base, uint64_t offset) {
  return mem::Gpa{mem::Raw(base) + offset};
}

inline uint16_t LoadAcquire(const GuestRam& ram, mem::Gpa at) {
  auto area = ram.memory()->Map(at, 2, 2, false);
  WV_CHECK(area.has_value());
  return area->LoadAcquire16(0);
}

inline void StoreRelease(const GuestRam& ram, mem::Gpa at, uint16_t value) {
  auto area = ram.memory()->Map(at, 2, 2, true);
  WV_CHECK(area.has_value());
  area->StoreRelease16(0, value);
}

}  // namespace wyvern::virtio::testing
