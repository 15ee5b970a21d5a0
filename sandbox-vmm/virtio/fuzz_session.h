// virtio/fuzz_session.h — a queue of either format under a hostile driver and a device that may answer
// in any order, scripted by bytes. What differs between the formats is the driver's part.
// Input:   operations of 1 B, some with arguments; 0xff ends the queue, and another goes on with its
//          ring.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/testing/fuzz_input.h"
#include "virtio/feature_bits.h"
#include "virtio/fuzz_chain.h"

namespace wyvern::virtio {

class FuzzSession {
 public:
  FuzzSession(const FuzzSession&) = delete;
  FuzzSession& operator=(const FuzzSession&) = delete;
  virtual ~FuzzSession() = default;

  void Run() {
    while (!input_.empty()) {
      Step(input_.Byte());
      CheckState();
    }
    // The queue first: chains that are out may be dropped then.
    queue_.reset();
  }

 protected:
  explicit FuzzSession(FuzzInput& input) : memory_(FuzzMemory()), input_(input) {}

  // Of the three low bits.
  static uint64_t Features(uint8_t bits) {
    return ((bits & 1U) != 0 ? kRingEventIdx : 0) | ((bits & 2U) != 0 ? kRingIndirectDesc : 0) |
           ((bits & 4U) != 0 ? kInOrder : 0);
  }

  void Make(const QueueConfig& config, uint64_t features, QueueState start) {
    size_ = config.size;
    config_ = config;
    features_ = features;
    in_order_ = (features & kInOrder) != 0;
    MakeQueue(start);
  }

  // The driver makes a chain available as it should be done; what is in it is the input's.
  virtual void Offer() = 0;
  // The driver says what notifications it wants.
  virtual void Event() = 0;
  // `head` was pushed when the queue stood at `at`: the ring has it there.
  virtual void CheckUsed(uint16_t at, uint16_t head, uint32_t written) = 0;

  virtual void CheckState() {}

  // NOLINTBEGIN(cppcoreguidelines-non-private-member-variables-in-classes): the two formats' state
  std::shared_ptr<const mem::GuestMemory> memory_;
  FuzzInput& input_;
  uint16_t size_ = 1;
  std::unique_ptr<Queue> queue_;
  // NOLINTEND(cppcoreguidelines-non-private-member-variables-in-classes)

 private:
  struct Held {
    Chain chain;
    uint64_t number;  // among those popped
  };

  void MakeQueue(QueueState start) {
    auto made = Queue::Create(memory_, config_, features_, start);
    WV_CHECK(made.has_value());
    queue_ = *std::move(made);
  }

  void Step(uint8_t operation) {
    if (operation == 0xff) {
      return Restart();
    }
    switch (operation % 11) {
      case 0:
        return Pop();
      case 1:
        return Push(held_.size() - 1);
      case 2:
        return Push(0);
      case 3:
        SetHolding(false);
        (void)queue_->NeedsInterrupt();
        return;
      case 4:
        return queue_->DisableNotification();
      case 5:
        (void)queue_->EnableNotification();
        return;
      case 6:
        return Offer();
      case 7:
        return Event();
      case 8:
        return Undo();
      case 9:
        return SetHolding(!holding_);
      default:
        // Anywhere, while the device works.
        (void)memory_->WriteBytes(mem::Gpa{kFuzzBase + input_.Word() % (kFuzzSize - 8)},
                                  std::as_bytes(input_.Take(8)));
    }
  }

  void Pop() {
    auto popped = queue_->Pop();
    if (!popped) {
      WV_CHECK(std::string_view(ChainFaultName(popped.error())) != "unknown fault");
      return;
    }
    if (std::optional<Chain>& chain = *popped; chain.has_value()) {
      UseChain(*chain);
      held_.push_back({*std::move(chain), ++popped_});
      WV_CHECK(held_.size() <= size_);
    }
  }

  void Push(size_t which) {
    if (which >= held_.size()) {
      return;
    }
    Chain chain = std::move(held_[which].chain);
    held_.erase(held_.begin() + static_cast<ptrdiff_t>(which));
    const uint16_t at = queue_->state().next_used;
    const uint16_t head = chain.head();
    const uint32_t written = chain.writable_length();
    queue_->Push(std::move(chain), written);
    if (!in_order_ && !holding_) {
      CheckUsed(at, head, written);
    }
  }

  void Undo() {
    if (!held_.empty() && held_.back().number == popped_) {
      queue_->UndoPop(std::move(held_.back().chain));
      held_.pop_back();
      --popped_;
    }
  }

  // What the device holds is in flight in the queue that goes on.
  void Restart() {
    if (in_order_ && !held_.empty()) {
      return;
    }
    SetHolding(false);
    const QueueState state = queue_->state();
    queue_.reset();
    MakeQueue(state);
    for (Held& held : held_) {
      std::optional<Chain> adopted = queue_->Adopt(std::move(held.chain));
      WV_CHECK(adopted.has_value());
      held.chain = *std::move(adopted);
    }
    ++popped_;  // none of them is the last that this one has popped
  }

  void SetHolding(bool holding) {
    if (holding && !holding_) {
      queue_->HoldUsed();
    } else if (!holding && holding_) {
      queue_->PublishUsed();
    }
    holding_ = holding;
  }

  QueueConfig config_;
  uint64_t features_ = 0;
  bool in_order_ = false;
  bool holding_ = false;
  std::deque<Held> held_;
  uint64_t popped_ = 0;
};

}  // namespace wyvern::virtio
