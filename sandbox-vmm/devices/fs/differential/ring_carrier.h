// fs/differential/ring_carrier.h — requests to a virtio-fs device through its rings, one at a time, as
// Linux' driver makes them.
// Spec:    VIRTIO 1.4 §5.11.6: FORGET and INTERRUPT in the hiprio queue, the rest in a request queue.
// Shape:   every part of a request is a descriptor, as far behind a page as the part itself. It
//          notifies when the device asks for it only, and waits for the interrupt that it asked for.
// Threads: one.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/event_fd.h"
#include "fs/fuse_abi.h"
#include "virtio/device.h"
#include "virtio/testing/fake_driver.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::fs::differential {

class RingCarrier {
 public:
  // Starts the queues of the device, which must outlive it; `features` as far as the device offers
  // them.
  static Result<std::shared_ptr<RingCarrier>> Create(virtio::VirtioDevice& device,
                                                     uint64_t features);
  ~RingCarrier();
  RingCarrier(const RingCarrier&) = delete;
  RingCarrier& operator=(const RingCarrier&) = delete;

  // The bytes of `out` that were written. Aborts when the device does not answer within a minute.
  uint32_t Carry(std::span<const iovec> request, std::span<const iovec> out);

 private:
  static constexpr uint64_t kRamBytes = 8 << 20;
  static constexpr uint16_t kRingSize = 64;
  static constexpr uint16_t kQueues = 2;  // hiprio, requests

  struct Ring {
    virtio::testing::FakeDriver driver;
    EventFd kick;
  };

  RingCarrier(virtio::VirtioDevice& device, uint64_t features);
  Result<> Start();
  virtio::testing::Used Await(uint16_t queue, uint64_t seen);

  virtio::VirtioDevice& device_;
  const uint64_t features_;
  virtio::testing::GuestRam ram_{kRamBytes};
  std::vector<Ring> rings_;
  std::shared_ptr<virtio::testing::FakeInterrupt> interrupt_ =
      std::make_shared<virtio::testing::FakeInterrupt>();
};

}  // namespace wyvern::fs::differential
