// virtio/testing/ring_rig.h — a queue with its driver, over any kind of ring; and all the kinds there
// are.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "virtio/packed_ring_core.h"
#include "virtio/testing/fake_driver.h"

namespace wyvern::virtio::testing {

// {split, packed} × {EVENT_IDX} × {INDIRECT_DESC} × {IN_ORDER}, as features.
inline std::vector<uint64_t> EveryRing() {
  std::vector<uint64_t> all;
  for (const uint64_t format : {uint64_t{0}, kRingPacked}) {
    for (const uint64_t event : {uint64_t{0}, kRingEventIdx}) {
      for (const uint64_t indirect : {uint64_t{0}, kRingIndirectDesc}) {
        for (const uint64_t order : {uint64_t{0}, kInOrder}) {
          all.push_back(format | event | indirect | order);
        }
      }
    }
  }
  return all;
}

// Those of EveryRing that have all of `wanted` and nothing of `unwanted`.
inline std::vector<uint64_t> RingsWith(uint64_t wanted, uint64_t unwanted = 0) {
  std::vector<uint64_t> some;
  for (const uint64_t ring : EveryRing()) {
    if ((ring & wanted) == wanted && (ring & unwanted) == 0) {
      some.push_back(ring);
    }
  }
  return some;
}

// For names of tests.
inline std::string RingName(uint64_t features) {
  std::string name = (features & kRingPacked) != 0 ? "packed" : "split";
  name += (features & kRingEventIdx) != 0 ? "_event_idx" : "";
  name += (features & kRingIndirectDesc) != 0 ? "_indirect" : "";
  name += (features & kInOrder) != 0 ? "_in_order" : "";
  return name;
}

class RingRig {
 public:
  RingRig(uint16_t size, uint64_t features)
      : RingRig(size, features, Queue::StartState(features)) {}

  // Both sides start at `start`.
  RingRig(uint16_t size, uint64_t features, QueueState start)
      : driver_(ram_, size, features), start_(start) {
    driver_.StartAt(start.next_available);
    Restart(start);
  }

  // The device side is made anew, from `state`.
  void Restart(QueueState state) {
    auto queue = Queue::Create(ram_.memory(), driver_.config(), driver_.features(), state);
    WV_CHECK(queue.has_value());
    queue_ = *std::move(queue);
  }

  void DropQueue() { queue_.reset(); }

  // A chain in an indirect table, where the ring has them.
  ChainBuilder Build() {
    ChainBuilder build = driver_.Build();
    if ((driver_.features() & kRingIndirectDesc) != 0) {
      build.Indirect();
    }
    return build;
  }

  // The index, or position, `steps` after the start.
  uint16_t At(uint32_t steps) const {
    uint16_t at = start_.next_available;
    for (uint32_t i = 0; i < steps; ++i) {
      at = driver_.packed() ? wv_packed_advance(at, 1, driver_.config().size)
                            : static_cast<uint16_t>(at + 1);
    }
    return at;
  }

  Chain Pop() { return MustPop(*queue_); }

  GuestRam& ram() { return ram_; }

  FakeDriver& driver() { return driver_; }

  Queue& queue() { return *queue_; }

 private:
  GuestRam ram_;
  FakeDriver driver_;
  QueueState start_;
  std::unique_ptr<Queue> queue_;
};

}  // namespace wyvern::virtio::testing
