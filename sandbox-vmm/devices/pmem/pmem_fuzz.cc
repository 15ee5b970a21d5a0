// A hostile driver of the persistent memory device, and images of any size laid out for one.
// Input:   1 B what follows: bit 7 a driver and its chains (testing/fuzz_chains.h), else the ring's
//          memory, several times over (testing/ring_images.h). Then bit 0 is a packed ring.
//          Behind its memory the guest has a read-only page, as an image would be: a write there is
//          a fault of ours.
#include <span>
#include <vector>

#include "base/check.h"
#include "pmem/image_layout.h"
#include "pmem/pmem_device.h"
#include "testing/device_rig.h"
#include "testing/fuzz_chains.h"
#include "testing/ring_images.h"

namespace {

using wyvern::devices::PmemDevice;
using wyvern::devices::PmemRange;
using wyvern::devices::testing::ChainPlayer;
using wyvern::devices::testing::ChainRecord;
using wyvern::devices::testing::DeviceRig;
using wyvern::devices::testing::GoodChain;
using wyvern::devices::testing::RingKind;
using wyvern::mem::Gpa;

constexpr PmemRange kRange = {.start = Gpa{uint64_t{4} << 30U}, .size = 2U << 20U};

DeviceRig* MakeRig() {
  auto device = PmemDevice::Create({.name = "pmem", .on_thread_start = nullptr}, kRange);
  WV_CHECK(device.has_value());
  auto* made = new DeviceRig(*std::move(device));
  wyvern::mem::RegionSpec region;
  region.start = Gpa{wyvern::virtio::testing::GuestRam::kBase + DeviceRig::kRamSize};
  region.size = 4096;
  region.read_only = true;
  auto memory = made->ram().memory()->WithRegion(std::move(region));
  WV_CHECK(memory.has_value());
  made->core().SetMemory(*memory);
  return made;
}

// Images one behind the other, none over another, in their order.
void LayOut(const ChainRecord& record) {
  std::vector<uint64_t> sizes;
  for (unsigned i = 0; i < record.field % 19U; ++i) {
    // Of all magnitudes: shifted out of 64 bits, some are nothing.
    sizes.push_back(uint64_t{record.value.value()} << ((record.lengths.value() >> i) % 64));
  }
  const uint64_t limit = uint64_t{1} << (record.shape % 64U);
  const auto layout = wyvern::devices::LayOutImages(sizes, limit);
  if (!layout) {
    return;
  }
  WV_CHECK(layout->images.size() == sizes.size() && layout->size <= limit);
  uint64_t end = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const auto& place = layout->images[i];
    WV_CHECK(place.offset == end && place.size == sizes[i]);
    end = place.offset + place.size + place.padding;
    WV_CHECK(end > place.offset && end % wyvern::devices::kImageAlign == 0);
  }
  WV_CHECK(end == layout->size);
}

// The device's own operation: its configuration, images, ranges that it must not take.
void Owner(DeviceRig& rig, const ChainRecord& record) {
  switch (record.parts % 3) {
    case 0: {
      const uint32_t offset = record.value.value() % 24;
      rig.core().WriteConfig(offset, std::as_bytes(std::span(&record.lengths, 1)));
      WV_CHECK(rig.Config<uint64_t>(0) == wyvern::mem::Raw(kRange.start));
      WV_CHECK(rig.Config<uint64_t>(8) == kRange.size);
      (void)rig.Config<uint64_t>(offset);
      break;
    }
    case 1:
      LayOut(record);
      break;
    default: {
      const uint64_t start = uint64_t{record.value.value()} << (record.shape % 33U);
      const PmemRange range{.start = Gpa{start},
                            .size = uint64_t{record.lengths.value()} << (record.field % 33U)};
      const bool made =
          PmemDevice::Create({.name = "pmem", .on_thread_start = nullptr}, range).has_value();
      const bool pages = range.size > 0 && start % 4096 == 0 && range.size % 4096 == 0;
      WV_CHECK(made == (pages && start + range.size >= start));
      break;
    }
  }
}

// VIRTIO §5.19.7: whatever it is asked, it answers where there is room for an answer.
void PlayChains(DeviceRig& rig, std::span<const uint8_t> input) {
  ChainPlayer player(rig, {.written = [](const GoodChain& chain) -> uint32_t {
                             return chain.writable >= 4 ? 4 : 0;
                           },
                           .own = [&rig](const ChainRecord& record) { Owner(rig, record); }});
  player.Run(input);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* rig = MakeRig();
  if (size == 0) {
    return 0;
  }
  const auto rest = std::span(data, size).subspan(1);
  if ((data[0] & 0x80U) != 0) {
    PlayChains(*rig, rest);
  } else {
    PlayRingImages(*rig, (data[0] & 1U) != 0 ? RingKind::kPacked : RingKind::kSplit, rest);
  }
  return 0;
}
