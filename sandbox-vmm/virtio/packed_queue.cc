#include "virtio/packed_queue.h"

#include <atomic>

#include "base/check.h"
#include "virtio/chain_walk.h"
#include "virtio/feature_bits.h"
#include "virtio/ring_wire.h"

namespace wyvern::virtio {

namespace {

constexpr size_t kBufferIds = size_t{1} << 16;

}  // namespace

PackedQueue::PackedQueue(std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config,
                         const wv_packed& ring, uint64_t features)
    : pool_(std::move(memory), config.feed),
      ring_(ring),
      in_flight_(kBufferIds),
      order_(ring.size, (features & kInOrder) != 0),
      indirect_((features & kRingIndirectDesc) != 0) {}

tl::expected<std::unique_ptr<Queue>, ChainFault> PackedQueue::Create(
    std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config, uint64_t features,
    QueueState state) {
  if (!wv_packed_size_valid(config.size)) {
    return tl::unexpected(ChainFault::kRingSize);
  }
  wv_packed ring;
  if (!wv_packed_init(&ring, config.size, state.next_available, state.next_used,
                      (features & kRingEventIdx) != 0)) {
    return tl::unexpected(ChainFault::kRingState);
  }
  auto descriptors =
      memory->Map(config.descriptor_area, wv_packed_descriptor_bytes(config.size), 16, true);
  auto driver = memory->Map(config.driver_area, WV_PACKED_EVENT_BYTES, 4, false);
  auto device = memory->Map(config.device_area, WV_PACKED_EVENT_BYTES, 4, true);
  if (!descriptors || !driver || !device) {
    return tl::unexpected(ChainFault::kRingAddress);
  }
  std::unique_ptr<PackedQueue> queue(new PackedQueue(std::move(memory), config, ring, features));
  queue->descriptors_ = *std::move(descriptors);
  queue->driver_event_ = *std::move(driver);
  queue->device_event_ = *std::move(device);
  return queue;
}

tl::expected<std::optional<Chain>, ChainFault> PackedQueue::Break(ChainFault fault) {
  broken_ = fault;
  return tl::unexpected(fault);
}

uint16_t PackedQueue::HeadFlags() const {
  // Acquire: the rest of the descriptor, and of its chain, was written before (§2.8.21.1).
  const uint64_t at = wv_packed_offset(ring_.next_available) + WV_PACKED_DESC_FLAGS;
  return FromLe(descriptors_.LoadAcquire16(at));
}

tl::expected<std::optional<Chain>, ChainFault> PackedQueue::Pop() {
  if (broken_) {
    return tl::unexpected(*broken_);
  }
  const uint16_t flags = HeadFlags();
  if (!wv_packed_is_available(flags, ring_.next_available)) {
    return std::nullopt;
  }
  std::unique_ptr<ChainStorage> storage = pool_.Take();
  if (auto walked = Walk(flags, storage.get()); !walked) {
    return Break(walked.error());
  }
  if (in_flight_.Has(storage->head)) {
    return Break(ChainFault::kHeadInFlight);
  }
  storage->position = wv_packed_take(&ring_, storage->slots);
  in_flight_.Flip(storage->head);
  order_.Add(storage.get());
  return MakeChain(std::move(storage));
}

tl::expected<void, ChainFault> PackedQueue::Walk(uint16_t flags, ChainStorage* storage) {
  WireDescriptor first;
  descriptors_.Read(wv_packed_offset(ring_.next_available),
                    std::as_writable_bytes(std::span(&first, 1)));
  first.wire_field14 = FromLe(flags);  // as they were when they said "available"
  wv_packed_walk walk;
  wv_packed_walk_begin(&walk, &ring_, indirect_);
  auto followed = FollowChain(pool_.memory(), descriptors_, first, &walk, storage);
  storage->head = walk.id;
  storage->slots = walk.slots;
  return followed;
}

// One used descriptor for a chain, or for a batch in order. Its flags publish it and so come last
// (§2.8.1).
void PackedQueue::WriteUsed(uint16_t id, uint32_t written, uint32_t slots) {
  const uint16_t position = wv_packed_use(&ring_, slots);
  const uint64_t at = wv_packed_offset(position);
  const WirePackedUsed used{.length = written, .id = id};
  descriptors_.Write(at + WV_PACKED_DESC_LEN, std::as_bytes(std::span(&used, 1)));
  const uint16_t flags = FromLe(wv_packed_used_flags(position, written));
  if (hold_used_ && !held_) {
    held_ = HeldFlags{.at = at + WV_PACKED_DESC_FLAGS, .flags = flags};
    return;
  }
  descriptors_.StoreRelease16(at + WV_PACKED_DESC_FLAGS, flags);
}

void PackedQueue::PublishUsed() {
  hold_used_ = false;
  if (held_) {
    descriptors_.StoreRelease16(held_->at, held_->flags);
    held_.reset();
  }
}

void PackedQueue::Push(Chain chain, uint32_t written) {
  std::unique_ptr<ChainStorage> storage = Reclaim(std::move(chain));
  pool_.Check(storage.get());
  WV_CHECK(written <= storage->writable_length);
  WV_CHECK(in_flight_.Has(storage->head));
  if (order_.kept()) {
    order_.Finish(*storage, written);
    for (wv_used_batch batch; order_.Next(&batch, &in_flight_);) {
      WriteUsed(batch.id, batch.written, batch.slots);
    }
  } else {
    WriteUsed(storage->head, written, storage->slots);
    in_flight_.Flip(storage->head);
  }
  pool_.Recycle(std::move(storage));
}

void PackedQueue::UndoPop(Chain chain) {
  std::unique_ptr<ChainStorage> storage = Reclaim(std::move(chain));
  pool_.Check(storage.get());
  WV_CHECK(wv_packed_undo(&ring_, storage->position, storage->slots));
  order_.Undo(*storage);
  in_flight_.Flip(storage->head);
  pool_.Recycle(std::move(storage));
}

std::optional<Chain> PackedQueue::Adopt(Chain chain) {
  std::unique_ptr<ChainStorage> storage = pool_.Adopt(Reclaim(std::move(chain)));
  WV_CHECK(!order_.kept() && !in_flight_.Has(storage->head));
  in_flight_.Flip(storage->head);
  return MakeChain(std::move(storage));
}

bool PackedQueue::NeedsInterrupt() {
  if (ring_.pending == 0) {
    return false;
  }
  // What was used must be visible before the driver's wish is read; the driver does the reverse
  // (§2.8.22).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  // The driver writes the position before the flags that refer to it.
  const uint16_t flags = FromLe(driver_event_.LoadAcquire16(WV_PACKED_EVENT_FLAGS));
  const uint16_t event = FromLe(driver_event_.Load16(0));
  return wv_packed_signal(&ring_, flags, event);
}

void PackedQueue::DisableNotification() {
  // The ring is looked at only where it decides.
  const bool available = ring_.event == ring_.next_available &&
                         wv_packed_is_available(HeadFlags(), ring_.next_available);
  if (wv_packed_disarm(&ring_, available)) {
    device_event_.Store16(WV_PACKED_EVENT_FLAGS, FromLe(ring_.event_flags));
  }
}

bool PackedQueue::EnableNotification() {
  wv_packed_arm(&ring_);
  device_event_.Store16(0, FromLe(ring_.event));
  device_event_.StoreRelease16(WV_PACKED_EVENT_FLAGS, FromLe(ring_.event_flags));
  // Ask first, look second: the driver publishes first and looks at our wish second.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return !broken_ && wv_packed_is_available(HeadFlags(), ring_.next_available);
}

}  // namespace wyvern::virtio
