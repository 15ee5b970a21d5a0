// transport/testing/doorbell_path.h — what KVM does with a guest's write to an address that has
// doorbells: signals the one that matches, without anybody in user space.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "base/check.h"
#include "base/endian.h"
#include "irq/testing/fake_interrupts.h"

namespace wyvern::transport::testing {

// False: no doorbell, the write is an exit.
inline bool RingDoorbell(const irq::testing::FakeDoorbells& doorbells, uint64_t address,
                         std::span<const std::byte> in) {
  Le64 value = 0;
  std::memcpy(&value, in.data(), std::min(sizeof(value), in.size()));
  for (const auto& [doorbell, event_fd] : doorbells.assigned) {
    if (mem::Raw(doorbell.address) == address &&
        (doorbell.length == 0 || doorbell.length == in.size()) &&
        (!doorbell.match || *doorbell.match == value)) {
      const uint64_t one = 1;
      WV_CHECK(::write(event_fd, &one, sizeof(one)) == sizeof(one));
      return true;
    }
  }
  return false;
}

}  // namespace wyvern::transport::testing
