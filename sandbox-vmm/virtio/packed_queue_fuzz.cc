// A hostile driver of a packed ring: the input fills the ring, then scripts what driver and device do.
// Input:   1 B size - 1 (mod 64), 1 B features and first wrap counter, 1 B first slot (mod size), 1 B
//          how many descriptors of ring follow (mod 65), those (16 B each), then operations of 1 B,
//          some with arguments (16 B descriptor, 4 B event suppression).
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "base/check.h"
#include "virtio/feature_bits.h"
#include "virtio/fuzz_chain.h"
#include "virtio/packed_ring_core.h"

namespace {

using wyvern::mem::Gpa;
using wyvern::virtio::Chain;
using wyvern::virtio::kFuzzBase;
using wyvern::virtio::Queue;

constexpr uint64_t kDriverEvent = kFuzzBase + 0x800;
constexpr uint64_t kDeviceEvent = kFuzzBase + 0x810;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(data, size) {}

  bool empty() const { return rest_.empty(); }

  uint8_t Byte() { return empty() ? uint8_t{0} : Take(1)[0]; }

  // At most `bytes`.
  std::span<const uint8_t> Take(size_t bytes) {
    const auto taken = rest_.first(bytes < rest_.size() ? bytes : rest_.size());
    rest_ = rest_.subspan(taken.size());
    return taken;
  }

 private:
  std::span<const uint8_t> rest_;
};

struct Held {
  Chain chain;
  uint64_t number;  // among those popped
};

class Session {
 public:
  explicit Session(Input& input) : memory_(wyvern::virtio::FuzzMemory()), input_(input) {
    size_ = static_cast<uint16_t>(1 + input.Byte() % 64);
    const uint8_t bits = input.Byte();
    in_order_ = (bits & 4U) != 0;
    const uint64_t features = wyvern::virtio::kRingPacked |
                              ((bits & 1U) != 0 ? wyvern::virtio::kRingEventIdx : 0) |
                              ((bits & 2U) != 0 ? wyvern::virtio::kRingIndirectDesc : 0) |
                              (in_order_ ? wyvern::virtio::kInOrder : 0);
    const auto start =
        static_cast<uint16_t>(((bits & 8U) != 0 ? 0U : WV_PACKED_WRAP) | input.Byte() % size_);
    const size_t image = size_t{input.Byte()} % 65 * WV_DESC_SIZE;
    (void)memory_->WriteBytes(Gpa{kFuzzBase}, std::as_bytes(input.Take(image)));
    auto made = Queue::Create(
        memory_,
        {.size = size_,
         .descriptor_area = Gpa{kFuzzBase},
         .driver_area = Gpa{kDriverEvent},
         .device_area = Gpa{kDeviceEvent}},
        features, wyvern::virtio::QueueState{.next_available = start, .next_used = start});
    WV_CHECK(made.has_value());
    queue_ = *std::move(made);
  }

  void Step(uint8_t operation) {
    switch (operation % 9) {
      case 0:
        Pop();
        break;
      case 1:
        Push(held_.size() - 1);
        break;
      case 2:
        Push(0);
        break;
      case 3:
        (void)queue_->NeedsInterrupt();
        break;
      case 4:
        queue_->DisableNotification();
        break;
      case 5:
        (void)queue_->EnableNotification();
        break;
      case 6:
        Offer();
        break;
      case 7:
        (void)memory_->WriteBytes(Gpa{kDriverEvent}, std::as_bytes(input_.Take(4)));
        break;
      default:
        Undo();
        break;
    }
    WV_CHECK(wv_packed_position_valid(queue_->state().next_available, size_));
    WV_CHECK(wv_packed_position_valid(queue_->state().next_used, size_));
  }

  void End() { queue_.reset(); }

 private:
  void Pop() {
    auto popped = queue_->Pop();
    if (!popped) {
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
    const uint16_t id = chain.head();
    const uint32_t written = chain.writable_length();
    queue_->Push(std::move(chain), written);
    if (!in_order_) {
      const auto seen = memory_->Read<wv_packed_desc>(Gpa{kFuzzBase + wv_packed_offset(at)});
      WV_CHECK(seen.has_value() && seen->id == id && seen->len == written);
      WV_CHECK(wv_packed_is_used(seen->flags, at));
    }
  }

  // A descriptor that the device will find available.
  void Offer() {
    wv_packed_desc descriptor{};
    const auto bytes = std::as_bytes(input_.Take(sizeof(descriptor)));
    const uint16_t at = queue_->state().next_available;
    const Gpa where{kFuzzBase + wv_packed_offset(at)};
    (void)memory_->WriteBytes(where, bytes);
    const uint16_t flags = memory_->Read<wv_packed_desc>(where)->flags;
    const uint16_t both = WV_PACKED_F_AVAIL | WV_PACKED_F_USED;
    (void)memory_->Write(Gpa{wyvern::mem::Raw(where) + WV_PACKED_DESC_FLAGS},
                         static_cast<uint16_t>((flags & ~both) | wv_packed_available_flags(at)));
  }

  void Undo() {
    if (!held_.empty() && held_.back().number == popped_) {
      queue_->UndoPop(std::move(held_.back().chain));
      held_.pop_back();
      --popped_;
    }
  }

  std::shared_ptr<const wyvern::mem::GuestMemory> memory_;
  Input& input_;
  uint16_t size_ = 1;
  bool in_order_ = false;
  std::unique_ptr<Queue> queue_;
  std::deque<Held> held_;
  uint64_t popped_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  Session session(input);
  while (!input.empty()) {
    session.Step(input.Byte());
  }
  session.End();
  return 0;
}
