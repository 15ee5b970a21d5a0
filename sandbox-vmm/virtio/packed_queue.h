// virtio/packed_queue.h — device side of the packed virtqueue; made by Queue::Create, private to this
// component.
// Spec:    VIRTIO 1.4 §2.8; notification suppression §2.8.10; IN_ORDER §2.8.8.
// Shape:   descriptors 16N B align 16, read and written by both sides; driver and device event
//          suppression 4 B align 4 each; N any, 1..32768. What is decided without memory is in
//          packed_ring_core.h.
// Invariants: the descriptors in flight are those from next_used on to next_available, N at most; a
//          buffer id is in flight at most once. Ids are any 16 bits: the spec sets no bound.
// Threads: one consumer.   Trust: all of it is guest-controlled and changes at any time; every field
//          is fetched once per use.
#pragma once

#include "virtio/chain_pool.h"
#include "virtio/packed_ring_core.h"
#include "virtio/queue.h"

namespace wyvern::virtio {

class PackedQueue final : public Queue {
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
  PackedQueue(std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config,
              const wv_packed& ring, uint64_t features);
  tl::expected<std::optional<Chain>, ChainFault> Break(ChainFault fault);
  tl::expected<void, ChainFault> Walk(uint16_t flags, ChainStorage* storage);
  // The flags of the descriptor at next_available: what publishes it.
  uint16_t HeadFlags() const;
  void WriteUsed(uint16_t id, uint32_t written, uint32_t slots);

  ChainPool pool_;
  mem::MappedArea descriptors_;
  mem::MappedArea driver_event_;
  mem::MappedArea device_event_;
  wv_packed ring_;
  IdSet in_flight_;  // buffer ids
  UseOrder order_;
  std::optional<ChainFault> broken_;

  // The first used descriptor since HoldUsed: until its flags are written the driver sees none of
  // those behind it.
  struct HeldFlags {
    uint64_t at = 0;
    uint16_t flags = 0;
  };

  std::optional<HeldFlags> held_;
  bool hold_used_ = false;
  const bool indirect_;
};

}  // namespace wyvern::virtio
