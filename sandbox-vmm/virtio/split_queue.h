// virtio/split_queue.h — device side of the split virtqueue; made by Queue::Create, private to this
// component.
// Spec:    VIRTIO 1.3 §2.7; notification suppression §2.7.7 (flags) and §2.7.8/§2.7.10 (EVENT_IDX).
// Shape:   descriptors 16N B align 16; available 6+2N B align 2; used 6+8N B align 4; N a power of
//          two.
// Invariants: next_used - next_available never passes the number of chains in flight; a head is in
//          flight at most once.
// Threads: one consumer.   Trust: the three areas are guest-controlled and change at any time;
//          every field is fetched once per use.
#pragma once

#include "virtio/queue.h"
#include "virtio/split_ring_core.h"

namespace wyvern::virtio {

class SplitQueue final : public Queue {
 public:
  static tl::expected<std::unique_ptr<Queue>, ChainFault> Create(
      std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config, uint64_t features,
      std::optional<QueueState> resume);
  ~SplitQueue() override;
  SplitQueue(const SplitQueue&) = delete;
  SplitQueue& operator=(const SplitQueue&) = delete;

  tl::expected<std::optional<Chain>, ChainFault> Pop() override;
  void Push(Chain chain, uint32_t written) override;
  void UndoPop(Chain chain) override;
  bool NeedsInterrupt() override;
  void DisableNotification() override;
  bool EnableNotification() override;

  QueueState state() const override { return {next_available_, next_used_}; }

  uint16_t size() const override { return size_; }

 private:
  SplitQueue() = default;
  tl::expected<std::optional<Chain>, ChainFault> Break(ChainFault fault);
  tl::expected<void, ChainFault> Walk(uint16_t head, ChainStorage* storage);
  std::unique_ptr<ChainStorage> TakeStorage();
  void Recycle(std::unique_ptr<ChainStorage> storage);

  bool InFlight(uint16_t head) const { return (in_flight_[head / 64U] >> (head % 64U) & 1U) != 0; }

  void FlipInFlight(uint16_t head) { in_flight_[head / 64U] ^= uint64_t{1} << (head % 64U); }

  std::shared_ptr<const mem::GuestMemory> memory_;
  mem::MappedArea descriptors_;
  mem::MappedArea available_;
  mem::MappedArea used_;
  std::shared_ptr<std::atomic<bool>> lives_;
  std::vector<uint64_t> in_flight_;  // one bit per head
  std::vector<std::unique_ptr<ChainStorage>> spare_;
  std::optional<ChainFault> broken_;
  uint16_t size_ = 0;
  uint16_t next_available_ = 0;
  uint16_t avail_event_ = 0;     // what we wrote there last (EVENT_IDX)
  uint16_t available_seen_ = 0;  // the driver's index when it was last read
  uint16_t next_used_ = 0;
  uint16_t signalled_used_ = 0;  // next_used_ at the last NeedsInterrupt
  bool signalled_valid_ = false;
  bool indirect_ = false;
  bool event_idx_ = false;
};

}  // namespace wyvern::virtio
