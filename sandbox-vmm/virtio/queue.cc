#include "virtio/queue.h"

#include "base/endian.h"
#include "virtio/feature_bits.h"
#include "virtio/packed_queue.h"
#include "virtio/queue_maker.h"
#include "virtio/split_queue.h"

namespace wyvern::virtio {

tl::expected<std::unique_ptr<Queue>, ChainFault> Queue::Create(
    std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config, uint64_t features,
    std::optional<QueueState> resume) {
  if (config.maker != nullptr) {
    return config.maker->Make(std::move(memory), config, features, resume);
  }
  const QueueState state = resume.value_or(StartState(features));
  if ((features & kRingPacked) != 0) {
    return PackedQueue::Create(std::move(memory), config, features, state);
  }
  return SplitQueue::Create(std::move(memory), config, features, state);
}

QueueState Queue::StartState(uint64_t features) {
  const uint16_t start = (features & kRingPacked) != 0 ? WV_PACKED_START : 0U;
  return {.next_available = start, .next_used = start};
}

bool Queue::SizeValid(uint32_t size, uint64_t features) {
  return (features & kRingPacked) != 0 ? wv_packed_size_valid(size) : wv_ring_size_valid(size);
}

tl::expected<uint16_t, ChainFault> Queue::UsedIndexInRing(const mem::GuestMemory& memory,
                                                          const QueueConfig& config) {
  constexpr uint64_t kIndexOffset = 2;
  auto index = memory.Read<Le16>(mem::Gpa{mem::Raw(config.device_area) + kIndexOffset});
  if (!index) {
    return tl::unexpected(ChainFault::kRingAddress);
  }
  return index->value();
}

Chain Queue::MakeChain(std::unique_ptr<ChainStorage> storage) {
  return Chain(std::move(storage));
}

std::unique_ptr<ChainStorage> Queue::Reclaim(Chain chain) {
  return std::move(chain.storage_);
}

}  // namespace wyvern::virtio
