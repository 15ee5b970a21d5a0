// A hostile driver of a packed ring: the input fills the ring, then scripts what driver and device do.
// Input:   1 B size - 1 (mod 64), 1 B features and first wrap counter, 1 B first slot (mod size), 1 B
//          how many descriptors of ring follow (mod 65), those (16 B each), then the operations of
//          fuzz_session.h.
#include "virtio/fuzz_session.h"
#include "virtio/packed_ring_core.h"

namespace {

using wyvern::FuzzInput;
using wyvern::mem::Gpa;
using wyvern::virtio::kFuzzBase;

constexpr uint64_t kDriverEvent = kFuzzBase + 0x800;
constexpr uint64_t kDeviceEvent = kFuzzBase + 0x810;

class PackedSession final : public wyvern::virtio::FuzzSession {
 public:
  explicit PackedSession(FuzzInput& input) : FuzzSession(input) {
    const auto size = static_cast<uint16_t>(1 + input.Byte() % 64);
    const uint8_t bits = input.Byte();
    const auto start =
        static_cast<uint16_t>(((bits & 8U) != 0 ? 0U : WV_PACKED_WRAP) | input.Byte() % size);
    const size_t image = size_t{input.Byte()} % 65 * WV_DESC_SIZE;
    (void)memory_->WriteBytes(Gpa{kFuzzBase}, std::as_bytes(input.Take(image)));
    Make({.size = size,
          .descriptor_area = Gpa{kFuzzBase},
          .driver_area = Gpa{kDriverEvent},
          .device_area = Gpa{kDeviceEvent}},
         wyvern::virtio::kRingPacked | Features(bits),
         {.next_available = start, .next_used = start});
  }

 private:
  void Offer() override {
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

  void Event() override {
    (void)memory_->WriteBytes(Gpa{kDriverEvent}, std::as_bytes(input_.Take(4)));
  }

  void CheckUsed(uint16_t at, uint16_t head, uint32_t written) override {
    const auto seen = memory_->Read<wv_packed_desc>(Gpa{kFuzzBase + wv_packed_offset(at)});
    WV_CHECK(seen.has_value() && seen->id == head && seen->len == written);
    WV_CHECK(wv_packed_is_used(seen->flags, at));
  }

  void CheckState() override {
    WV_CHECK(wv_packed_position_valid(queue_->state().next_available, size_));
    WV_CHECK(wv_packed_position_valid(queue_->state().next_used, size_));
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzInput input(data, size);
  PackedSession(input).Run();
  return 0;
}
