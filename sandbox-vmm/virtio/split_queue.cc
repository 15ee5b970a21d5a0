#include "virtio/split_queue.h"

#include <array>
#include <atomic>

#include "base/check.h"
#include "base/endian.h"
#include "virtio/feature_bits.h"

namespace wyvern::virtio {

namespace {

constexpr uint64_t kFlags = 0;  // of the driver and the device area
constexpr uint64_t kIndex = 2;
constexpr uint16_t kAvailNoInterrupt = 1;  // VIRTIO §2.7.6
constexpr uint16_t kUsedNoNotify = 1;      // VIRTIO §2.7.8
// A storage that grew beyond this is kept only while few are spare: a guest must not make us hoard
// memory.
constexpr size_t kLargeChain = 128;
constexpr size_t kLargeSpares = 16;
// Indirect tables are fetched in pieces of this many descriptors.
constexpr uint32_t kTableWindow = 16;

struct WireDescriptor {
  Le64 addr;
  Le32 len;
  Le16 flags;
  Le16 next;
};

static_assert(sizeof(WireDescriptor) == WV_DESC_SIZE);

struct WireUsed {
  Le32 id;
  Le32 len;
};

wv_desc FromWire(const WireDescriptor& wire) {
  return {.addr = wire.addr, .len = wire.len, .flags = wire.flags, .next = wire.next};
}

ChainFault FromWalk(wv_walk_action action) {
  switch (action) {
    case WV_WALK_FAULT_LOOP:
      return ChainFault::kLoop;
    case WV_WALK_FAULT_NESTED:
      return ChainFault::kIndirectNested;
    case WV_WALK_FAULT_TABLE:
      return ChainFault::kIndirectLength;
    case WV_WALK_FAULT_ORDER:
      return ChainFault::kWritableBeforeReadable;
    case WV_WALK_FAULT_TOTAL:
      return ChainFault::kTotalLength;
    case WV_WALK_FAULT_FLAGS:
      return ChainFault::kIndirectFlags;
    default:
      return ChainFault::kDescriptorIndex;
  }
}

uint16_t FromLe(uint16_t wire) {
  return std::endian::native == std::endian::little ? wire : ByteSwap(wire);
}

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

  std::optional<wv_desc> Fetch(uint16_t index) {
    if (table_count_ == 0) {
      WireDescriptor wire;
      ring_.Read(uint64_t{index} * WV_DESC_SIZE, std::as_writable_bytes(std::span(&wire, 1)));
      return FromWire(wire);
    }
    if (index < window_start_ || index >= window_start_ + window_count_) {
      window_start_ = index;
      window_count_ = std::min(kTableWindow, table_count_ - index);
      auto bytes = std::as_writable_bytes(std::span(window_).first(window_count_));
      const mem::Gpa from{mem::Raw(table_) + uint64_t{index} * WV_DESC_SIZE};
      if (!memory_.ReadBytes(from, bytes)) {
        return std::nullopt;
      }
    }
    return FromWire(window_[index - window_start_]);
  }

 private:
  const mem::GuestMemory& memory_;
  const mem::MappedArea& ring_;
  mem::Gpa table_{};
  uint32_t table_count_ = 0;
  uint32_t window_start_ = 0;
  uint32_t window_count_ = 0;
  std::array<WireDescriptor, kTableWindow> window_;
};

}  // namespace

tl::expected<std::unique_ptr<Queue>, ChainFault> Queue::Create(
    std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config, uint64_t features,
    std::optional<QueueState> resume) {
  if ((features & kRingPacked) != 0) {
    return tl::unexpected(ChainFault::kUnsupported);
  }
  return SplitQueue::Create(std::move(memory), config, features, resume);
}

tl::expected<uint16_t, ChainFault> Queue::UsedIndexInRing(const mem::GuestMemory& memory,
                                                          const QueueConfig& config) {
  auto index = memory.Read<Le16>(mem::Gpa{mem::Raw(config.device_area) + kIndex});
  if (!index) {
    return tl::unexpected(ChainFault::kRingAddress);
  }
  return index->value();
}

tl::expected<std::unique_ptr<Queue>, ChainFault> SplitQueue::Create(
    std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config, uint64_t features,
    std::optional<QueueState> resume) {
  if (!wv_ring_size_valid(config.size)) {
    return tl::unexpected(ChainFault::kRingSize);
  }
  auto descriptors =
      memory->Map(config.descriptor_area, wv_ring_descriptor_bytes(config.size), 16, false);
  auto available = memory->Map(config.driver_area, wv_ring_driver_bytes(config.size), 2, false);
  auto used = memory->Map(config.device_area, wv_ring_device_bytes(config.size), 4, true);
  if (!descriptors || !available || !used) {
    return tl::unexpected(ChainFault::kRingAddress);
  }
  std::unique_ptr<SplitQueue> queue(new SplitQueue());
  queue->memory_ = std::move(memory);
  queue->descriptors_ = *std::move(descriptors);
  queue->available_ = *std::move(available);
  queue->used_ = *std::move(used);
  queue->lives_ = std::make_shared<std::atomic<bool>>(true);
  queue->in_flight_.resize((size_t{config.size} + 63) / 64);
  queue->size_ = config.size;
  queue->indirect_ = (features & kRingIndirectDesc) != 0;
  queue->event_idx_ = (features & kRingEventIdx) != 0;
  if (resume) {
    queue->next_available_ = resume->next_available;
    queue->next_used_ = resume->next_used;
  }
  queue->available_seen_ = queue->next_available_;
  queue->avail_event_ = queue->next_available_;
  queue->signalled_used_ = queue->next_used_;
  return queue;
}

SplitQueue::~SplitQueue() {
  lives_->store(false, std::memory_order_relaxed);
}

tl::expected<std::optional<Chain>, ChainFault> SplitQueue::Break(ChainFault fault) {
  broken_ = fault;
  return tl::unexpected(fault);
}

tl::expected<std::optional<Chain>, ChainFault> SplitQueue::Pop() {
  if (broken_) {
    return tl::unexpected(*broken_);
  }
  if (available_seen_ == next_available_) {
    available_seen_ = FromLe(available_.LoadAcquire16(kIndex));
    if (available_seen_ == next_available_) {
      return std::nullopt;
    }
    // virtio-queue 0.6.1: a driver cannot have made more available than the ring holds.
    if (wv_ring_distance(available_seen_, next_available_) > size_) {
      return Break(ChainFault::kAvailIndexJump);
    }
  }
  const uint16_t head =
      FromLe(available_.Load16(wv_ring_driver_slot(wv_ring_slot(next_available_, size_))));
  if (head >= size_) {
    return Break(ChainFault::kDescriptorIndex);
  }
  if (InFlight(head)) {
    return Break(ChainFault::kHeadInFlight);
  }
  std::unique_ptr<ChainStorage> storage = TakeStorage();
  if (auto walked = Walk(head, storage.get()); !walked) {
    return Break(walked.error());
  }
  storage->head = head;
  storage->available_index = next_available_;
  FlipInFlight(head);
  ++next_available_;
  return MakeChain(std::move(storage));
}

tl::expected<void, ChainFault> SplitQueue::Walk(uint16_t head, ChainStorage* storage) {
  wv_walk walk;
  WV_CHECK(wv_walk_begin(&walk, head, size_, indirect_));
  DescriptorSource source(*memory_, descriptors_);
  while (!walk.done) {
    const std::optional<wv_desc> descriptor = source.Fetch(walk.index);
    if (!descriptor) {
      return tl::unexpected(ChainFault::kIndirectAddress);
    }
    const wv_walk_action action = wv_walk_step(&walk, &*descriptor);
    if (action >= WV_WALK_FAULT) {
      return tl::unexpected(FromWalk(action));
    }
    if (action == WV_WALK_TABLE) {
      if (!source.EnterTable(descriptor->addr, walk.table_count)) {
        return tl::unexpected(ChainFault::kIndirectAddress);
      }
      continue;
    }
    if (action == WV_WALK_EMPTY) {
      continue;
    }
    if (!memory_->Contains(mem::Gpa{descriptor->addr}, descriptor->len)) {
      return tl::unexpected(ChainFault::kBufferAddress);
    }
    storage->buffers.push_back({mem::Gpa{descriptor->addr}, descriptor->len});
    storage->readable_count += action == WV_WALK_READABLE ? 1 : 0;
  }
  storage->readable_length = walk.readable_length;
  storage->writable_length = walk.writable_length;
  return {};
}

std::unique_ptr<ChainStorage> SplitQueue::TakeStorage() {
  if (spare_.empty()) {
    auto storage = std::make_unique<ChainStorage>();
    storage->memory = memory_;
    storage->queue_lives = lives_;
    return storage;
  }
  std::unique_ptr<ChainStorage> storage = std::move(spare_.back());
  spare_.pop_back();
  storage->buffers.clear();
  storage->readable_count = 0;
  return storage;
}

void SplitQueue::Recycle(std::unique_ptr<ChainStorage> storage) {
  if (storage->buffers.capacity() > kLargeChain && spare_.size() >= kLargeSpares) {
    return;
  }
  spare_.push_back(std::move(storage));
}

void SplitQueue::Push(Chain chain, uint32_t written) {
  std::unique_ptr<ChainStorage> storage = Reclaim(std::move(chain));
  WV_CHECK(storage != nullptr && storage->queue_lives == lives_);
  WV_CHECK(written <= storage->writable_length);
  WV_CHECK(InFlight(storage->head));
  const WireUsed element{.id = uint32_t{storage->head}, .len = written};
  used_.Write(wv_ring_device_slot(wv_ring_slot(next_used_, size_)),
              std::as_bytes(std::span(&element, 1)));
  ++next_used_;
  used_.StoreRelease16(kIndex, FromLe(next_used_));
  FlipInFlight(storage->head);
  Recycle(std::move(storage));
}

void SplitQueue::UndoPop(Chain chain) {
  std::unique_ptr<ChainStorage> storage = Reclaim(std::move(chain));
  WV_CHECK(storage != nullptr && storage->queue_lives == lives_);
  WV_CHECK(storage->available_index == static_cast<uint16_t>(next_available_ - 1U));
  --next_available_;
  FlipInFlight(storage->head);
  Recycle(std::move(storage));
}

bool SplitQueue::NeedsInterrupt() {
  const uint16_t old_used = signalled_used_;
  const bool valid = signalled_valid_;
  if (next_used_ == old_used) {
    return false;
  }
  // The used index must be visible before the driver's wish is read; the driver does the reverse
  // (VIRTIO §2.7.7.2).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  signalled_used_ = next_used_;
  signalled_valid_ = true;
  if (!event_idx_) {
    return (FromLe(available_.Load16(kFlags)) & kAvailNoInterrupt) == 0;
  }
  const uint16_t event = FromLe(available_.Load16(wv_ring_used_event(size_)));
  return !valid || wv_ring_need_event(event, next_used_, old_used);
}

void SplitQueue::DisableNotification() {
  if (!event_idx_) {
    used_.Store16(kFlags, FromLe(kUsedNoNotify));
    return;
  }
  // With EVENT_IDX the flags stay 0 (VIRTIO §2.7.10). An avail_event that the driver has passed
  // suppresses by itself, and saves writing to what the driver reads.
  if (avail_event_ == next_available_ &&
      FromLe(available_.LoadAcquire16(kIndex)) == next_available_) {
    --avail_event_;
    used_.Store16(wv_ring_avail_event(size_), FromLe(avail_event_));
  }
}

bool SplitQueue::EnableNotification() {
  if (event_idx_) {
    avail_event_ = next_available_;
    used_.Store16(wv_ring_avail_event(size_), FromLe(avail_event_));
  } else {
    used_.Store16(kFlags, 0);
  }
  // Ask first, look second: the driver publishes first and looks at our wish second.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (broken_) {
    return false;
  }
  return available_seen_ != next_available_ ||
         FromLe(available_.LoadAcquire16(kIndex)) != next_available_;
}

}  // namespace wyvern::virtio
