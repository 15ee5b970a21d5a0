// virtio/chain_walk.h — from the descriptors of one chain to a ChainStorage, for both ring formats;
// private to this component.
// Shape:   the ring cores judge (wv_walk_step, wv_packed_walk_step); here is what needs memory: the
//          fetches, one per descriptor, and the range tests.
// Trust:   descriptors and tables are guest-controlled and change at any time.
#pragma once

#include <algorithm>
#include <array>
#include <span>

#include "virtio/packed_ring_core.h"
#include "virtio/queue.h"
#include "virtio/ring_wire.h"
#include "virtio/split_ring_core.h"

namespace wyvern::virtio {

inline wv_walk_action StepWalk(wv_walk* walk, const WireDescriptor& wire) {
  const wv_desc desc = {.addr = wire.address(),
                        .len = wire.length(),
                        .flags = wire.field12(),
                        .next = wire.field14()};
  return wv_walk_step(walk, &desc);
}

inline wv_walk_action StepWalk(wv_packed_walk* walk, const WireDescriptor& wire) {
  const wv_packed_desc desc = {
      .addr = wire.address(), .len = wire.length(), .id = wire.field12(), .flags = wire.field14()};
  return wv_packed_walk_step(walk, &desc);
}

ChainFault FaultOfWalk(wv_walk_action action);

// The descriptors of one chain, from the ring's own table or from an indirect one.
class DescriptorSource {
 public:
  DescriptorSource(const mem::GuestMemory& memory, const mem::MappedArea& ring)
      : memory_(memory), ring_(ring) {}

  bool EnterTable(uint64_t address, uint32_t count) {
    table_ = mem::Gpa{address};
    table_count_ = count;
    return memory_.Contains(table_, uint64_t{count} * WV_DESC_SIZE);
  }

  // Null: outside memory. Valid until the next call.
  const WireDescriptor* Fetch(uint16_t index) {
    if (table_count_ == 0) {
      ring_.Read(uint64_t{index} * WV_DESC_SIZE,
                 std::as_writable_bytes(std::span(window_).first(1)));
      return &window_[0];
    }
    if (index < window_start_ || index >= window_start_ + window_count_) {
      window_start_ = index;
      window_count_ = std::min(kWindow, table_count_ - index);
      auto bytes = std::as_writable_bytes(std::span(window_).first(window_count_));
      const mem::Gpa from{mem::Raw(table_) + uint64_t{index} * WV_DESC_SIZE};
      if (!memory_.ReadBytes(from, bytes)) {
        return nullptr;
      }
    }
    return &window_[index - window_start_];
  }

 private:
  // Indirect tables are fetched in pieces of this many descriptors.
  static constexpr uint32_t kWindow = 16;

  const mem::GuestMemory& memory_;
  const mem::MappedArea& ring_;
  mem::Gpa table_{};
  uint32_t table_count_ = 0;
  uint32_t window_start_ = 0;
  uint32_t window_count_ = 0;
  std::array<WireDescriptor, kWindow> window_;
};

// Follows the chain whose first descriptor is `first`, after wv_walk_begin or wv_packed_walk_begin.
template <typename Walk>
tl::expected<void, ChainFault> FollowChain(const mem::GuestMemory& memory,
                                           const mem::MappedArea& ring, const WireDescriptor& first,
                                           Walk* walk, ChainStorage* storage) {
  DescriptorSource source(memory, ring);
  const WireDescriptor* wire = &first;
  for (;;) {
    const mem::Gpa address{wire->address()};
    const uint32_t length = wire->length();
    const wv_walk_action action = StepWalk(walk, *wire);
    if (action >= WV_WALK_FAULT) {
      return tl::unexpected(FaultOfWalk(action));
    }
    if (action == WV_WALK_TABLE) {
      if (!source.EnterTable(mem::Raw(address), walk->table_count)) {
        return tl::unexpected(ChainFault::kIndirectAddress);
      }
    } else if (action != WV_WALK_EMPTY) {
      if (!memory.Contains(address, length)) {
        return tl::unexpected(ChainFault::kBufferAddress);
      }
      storage->buffers.push_back({address, length});
      storage->readable_count += action == WV_WALK_READABLE ? 1 : 0;
    }
    if (walk->done) {
      break;
    }
    wire = source.Fetch(walk->index);
    if (wire == nullptr) {
      return tl::unexpected(ChainFault::kIndirectAddress);
    }
  }
  storage->readable_length = walk->lengths.readable;
  storage->writable_length = walk->lengths.writable;
  return {};
}

}  // namespace wyvern::virtio
