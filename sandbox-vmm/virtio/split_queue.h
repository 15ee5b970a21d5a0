// virtio/split_queue.h — device side of the split virtqueue; made by Queue::Create, private to this
// component.
// Spec:    VIRTIO 1.4 §2.7; notification suppression §2.7.7 (flags) and §2.7.8/§2.7.10 (EVENT_IDX);
//          IN_ORDER §2.7.9.
// Shape:   descriptors 16N B align 16; available 6+2N B align 2; used 6+8N B align 4; N a power of
//          two. What is decided without memory is in split_ring_core.h.
// Invariants: next_used - next_available never passes the number of chains in flight; a head is in
//          flight at most once.
// Threads: one consumer.   Trust: the three areas are guest-controlled and change at any time;
//          every field is fetched once per use.
#pragma once

#include "virtio/chain_pool.h"
#include "virtio/queue.h"
#include "virtio/split_ring_core.h"

namespace wyvern::virtio {

class SplitQueue final : public Queue {
 public:
  static tl::expected<std::unique_ptr<Queue>, ChainFault> Create(
      std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config, uint64_t features,
      QueueState state);

  tl::expected<std::optional<Chain>, ChainFault> Pop() override;
  void Push(Chain chain, uint32_t written) override;

  void HoldUsed() override { hold_used_ = true; }

  void PublishUsed() override;
  void UndoPop(Chain chain) override;
  std::optional<Chain> Adopt(Chain chain) override;
  bool NeedsInterrupt() override;
  void DisableNotification() override;
  bool EnableNotification() override;

  QueueState state() const override { return {ring_.next_available, ring_.next_used}; }

  uint16_t size() const override { return ring_.size; }

 private:
  SplitQueue(std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config,
             const wv_split& ring, uint64_t features);
  tl::expected<std::optional<Chain>, ChainFault> Break(ChainFault fault);
  tl::expected<void, ChainFault> Walk(uint16_t head, ChainStorage* storage);
  void WriteUsed(uint16_t head, uint32_t written);
  bool UseInOrder(const ChainStorage& storage, uint32_t written);

  ChainPool pool_;
  mem::MappedArea descriptors_;
  mem::MappedArea available_;
  mem::MappedArea used_;
  wv_split ring_;
  IdSet in_flight_;  // heads
  UseOrder order_;
  std::optional<ChainFault> broken_;
  bool hold_used_ = false;
  const bool indirect_;
};

}  // namespace wyvern::virtio
