#include "virtio/split_queue.h"

#include <atomic>

#include "base/check.h"
#include "virtio/chain_walk.h"
#include "virtio/feature_bits.h"
#include "virtio/ring_wire.h"

namespace wyvern::virtio {

namespace {

constexpr uint64_t kFlags = 0;  // of the driver and the device area
constexpr uint64_t kIndex = 2;

}  // namespace

SplitQueue::SplitQueue(std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config,
                       const wv_split& ring, uint64_t features)
    : pool_(std::move(memory), config.feed),
      ring_(ring),
      in_flight_(ring.size),
      order_(ring.size, (features & kInOrder) != 0),
      indirect_((features & kRingIndirectDesc) != 0) {}

tl::expected<std::unique_ptr<Queue>, ChainFault> SplitQueue::Create(
    std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config, uint64_t features,
    QueueState state) {
  wv_split ring;
  if (!wv_split_init(&ring, config.size, state.next_available, state.next_used,
                     (features & kRingEventIdx) != 0)) {
    return tl::unexpected(ChainFault::kRingSize);
  }
  auto descriptors =
      memory->Map(config.descriptor_area, wv_ring_descriptor_bytes(config.size), 16, false);
  auto available = memory->Map(config.driver_area, wv_ring_driver_bytes(config.size), 2, false);
  auto used = memory->Map(config.device_area, wv_ring_device_bytes(config.size), 4, true);
  if (!descriptors || !available || !used) {
    return tl::unexpected(ChainFault::kRingAddress);
  }
  std::unique_ptr<SplitQueue> queue(new SplitQueue(std::move(memory), config, ring, features));
  queue->descriptors_ = *std::move(descriptors);
  queue->available_ = *std::move(available);
  queue->used_ = *std::move(used);
  return queue;
}

tl::expected<std::optional<Chain>, ChainFault> SplitQueue::Break(ChainFault fault) {
  broken_ = fault;
  return tl::unexpected(fault);
}

tl::expected<std::optional<Chain>, ChainFault> SplitQueue::Pop() {
  if (broken_) {
    return tl::unexpected(*broken_);
  }
  if (!wv_split_available(&ring_)) {
    if (!wv_split_see(&ring_, FromLe(available_.LoadAcquire16(kIndex)))) {
      return Break(ChainFault::kAvailIndexJump);
    }
    if (!wv_split_available(&ring_)) {
      return std::nullopt;
    }
  }
  const uint16_t head = FromLe(available_.Load16(wv_split_available_offset(&ring_)));
  if (head >= ring_.size) {
    return Break(ChainFault::kDescriptorIndex);
  }
  if (in_flight_.Has(head)) {
    return Break(ChainFault::kHeadInFlight);
  }
  std::unique_ptr<ChainStorage> storage = pool_.Take();
  if (auto walked = Walk(head, storage.get()); !walked) {
    return Break(walked.error());
  }
  storage->head = head;
  storage->slots = 1;
  storage->position = wv_split_take(&ring_);
  in_flight_.Flip(head);
  order_.Add(storage.get());
  return MakeChain(std::move(storage));
}

tl::expected<void, ChainFault> SplitQueue::Walk(uint16_t head, ChainStorage* storage) {
  wv_walk walk;
  WV_CHECK(wv_walk_begin(&walk, head, ring_.size, indirect_));
  WireDescriptor first;
  descriptors_.Read(uint64_t{head} * WV_DESC_SIZE, std::as_writable_bytes(std::span(&first, 1)));
  return FollowChain(pool_.memory(), descriptors_, first, &walk, storage);
}

void SplitQueue::WriteUsed(uint16_t head, uint32_t written) {
  const WireUsed element{.id = uint32_t{head}, .length = written};
  used_.Write(wv_split_used_offset(&ring_), std::as_bytes(std::span(&element, 1)));
}

void SplitQueue::Push(Chain chain, uint32_t written) {
  std::unique_ptr<ChainStorage> storage = Reclaim(std::move(chain));
  pool_.Check(storage.get());
  WV_CHECK(written <= storage->writable_length);
  WV_CHECK(in_flight_.Has(storage->head));
  bool used = true;
  if (order_.kept()) {
    used = UseInOrder(*storage, written);
  } else {
    WriteUsed(storage->head, written);
    wv_split_use(&ring_, 1);
    in_flight_.Flip(storage->head);
  }
  if (used && !hold_used_) {
    used_.StoreRelease16(kIndex, FromLe(ring_.next_used));
  }
  pool_.Recycle(std::move(storage));
}

void SplitQueue::PublishUsed() {
  hold_used_ = false;
  used_.StoreRelease16(kIndex, FromLe(ring_.next_used));
}

// Each batch is one element, at the place of its first chain; one index publishes them all. False when
// an older chain is still in flight.
bool SplitQueue::UseInOrder(const ChainStorage& storage, uint32_t written) {
  order_.Finish(storage, written);
  wv_used_batch batch;
  bool any = false;
  while (order_.Next(&batch, &in_flight_)) {
    WriteUsed(batch.id, batch.written);
    wv_split_use(&ring_, static_cast<uint16_t>(batch.slots));
    any = true;
  }
  return any;
}

void SplitQueue::UndoPop(Chain chain) {
  std::unique_ptr<ChainStorage> storage = Reclaim(std::move(chain));
  pool_.Check(storage.get());
  WV_CHECK(wv_split_undo(&ring_, storage->position));
  order_.Undo(*storage);
  in_flight_.Flip(storage->head);
  pool_.Recycle(std::move(storage));
}

std::optional<Chain> SplitQueue::Adopt(Chain chain) {
  std::unique_ptr<ChainStorage> storage = pool_.Adopt(Reclaim(std::move(chain)));
  WV_CHECK(!order_.kept() && storage->head < ring_.size && !in_flight_.Has(storage->head));
  in_flight_.Flip(storage->head);
  return MakeChain(std::move(storage));
}

bool SplitQueue::NeedsInterrupt() {
  if (ring_.pending == 0) {
    return false;
  }
  // The used index must be visible before the driver's wish is read; the driver does the reverse
  // (VIRTIO §2.7.7.2).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint64_t wish = ring_.event_idx ? wv_ring_used_event(ring_.size) : kFlags;
  return wv_split_signal(&ring_, FromLe(available_.Load16(wish)));
}

void SplitQueue::DisableNotification() {
  if (!ring_.event_idx) {
    used_.Store16(kFlags, FromLe(uint16_t{WV_USED_F_NO_NOTIFY}));
    return;
  }
  if (ring_.avail_event == ring_.next_available &&
      wv_split_disarm(&ring_, FromLe(available_.LoadAcquire16(kIndex)))) {
    used_.Store16(wv_ring_avail_event(ring_.size), FromLe(ring_.avail_event));
  }
}

bool SplitQueue::EnableNotification() {
  if (ring_.event_idx) {
    used_.Store16(wv_ring_avail_event(ring_.size), FromLe(wv_split_arm(&ring_)));
  } else {
    used_.Store16(kFlags, 0);
  }
  // Ask first, look second: the driver publishes first and looks at our wish second.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (broken_) {
    return false;
  }
  return wv_split_available(&ring_) ||
         FromLe(available_.LoadAcquire16(kIndex)) != ring_.next_available;
}

}  // namespace wyvern::virtio
