// A hostile driver of a split ring: the input fills the ring, then scripts what driver and device do.
// Input:   1 B log2(size) (mod 7), 1 B features, 2 B first index, 1 B how many descriptors of the table
//          follow (mod 65), those (16 B each), then the operations of fuzz_session.h.
#include "virtio/fuzz_session.h"
#include "virtio/split_ring_core.h"

namespace {

using wyvern::FuzzInput;
using wyvern::mem::Gpa;
using wyvern::virtio::kFuzzBase;

constexpr uint64_t kAvailable = kFuzzBase + 0x800;
constexpr uint64_t kUsed = kFuzzBase + 0xa00;

class SplitSession final : public wyvern::virtio::FuzzSession {
 public:
  explicit SplitSession(FuzzInput& input) : FuzzSession(input) {
    const auto size = static_cast<uint16_t>(1U << input.Byte() % 7U);
    const uint64_t features = Features(input.Byte());
    available_ = input.Word();
    const size_t table = size_t{input.Byte()} % 65 * WV_DESC_SIZE;
    (void)memory_->WriteBytes(Gpa{kFuzzBase}, std::as_bytes(input.Take(table)));
    PublishAvailable();
    Make({.size = size,
          .descriptor_area = Gpa{kFuzzBase},
          .driver_area = Gpa{kAvailable},
          .device_area = Gpa{kUsed}},
         features, {.next_available = available_, .next_used = available_});
  }

 private:
  void PublishAvailable() { (void)memory_->Write(Gpa{kAvailable + 2}, available_); }

  void Offer() override {
    const auto head = static_cast<uint16_t>(input_.Byte() % size_);
    (void)memory_->WriteBytes(Gpa{kFuzzBase + uint64_t{head} * WV_DESC_SIZE},
                              std::as_bytes(input_.Take(WV_DESC_SIZE)));
    (void)memory_->Write(Gpa{kAvailable + 4 + uint64_t{2} * (available_ % size_)}, head);
    ++available_;
    PublishAvailable();
  }

  void Event() override {
    (void)memory_->Write(Gpa{kAvailable}, static_cast<uint16_t>(input_.Byte()));
    (void)memory_->Write(Gpa{kAvailable + 4 + uint64_t{2} * size_}, input_.Word());
  }

  void CheckUsed(uint16_t at, uint16_t head, uint32_t written) override {
    const uint64_t element = kUsed + 4 + uint64_t{8} * (at % size_);
    const auto id = memory_->Read<uint32_t>(Gpa{element});
    const auto length = memory_->Read<uint32_t>(Gpa{element + 4});
    WV_CHECK(id.has_value() && *id == head && length.has_value() && *length == written);
    const auto index = memory_->Read<uint16_t>(Gpa{kUsed + 2});
    WV_CHECK(index.has_value() && *index == static_cast<uint16_t>(at + 1));
  }

  uint16_t available_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzInput input(data, size);
  SplitSession(input).Run();
  return 0;
}
