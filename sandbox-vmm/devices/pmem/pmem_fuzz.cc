// A hostile driver of the persistent memory device: the input is the ring's memory, several times
// over.
// Input:   1 B: bit 0 a packed ring; then images of the ring (testing/ring_images.h).
//          Behind its memory the guest has a read-only page, as an image would be: a write there is
//          a fault of ours.
#include "base/check.h"
#include "pmem/pmem_device.h"
#include "testing/device_rig.h"
#include "testing/ring_images.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using wyvern::devices::PmemDevice;
  static auto* rig = [] {
    auto device = PmemDevice::Create({.name = "pmem", .on_thread_start = nullptr},
                                     {wyvern::mem::Gpa{uint64_t{4} << 30U}, 2U << 20U});
    WV_CHECK(device.has_value());
    auto* made = new wyvern::devices::testing::DeviceRig(*std::move(device));
    wyvern::mem::RegionSpec region;
    region.start = wyvern::mem::Gpa{wyvern::virtio::testing::GuestRam::kBase +
                                    wyvern::devices::testing::DeviceRig::kRamSize};
    region.size = 4096;
    region.read_only = true;
    auto memory = made->ram().memory()->WithRegion(std::move(region));
    WV_CHECK(memory.has_value());
    made->core().SetMemory(*memory);
    return made;
  }();
  const uint64_t mark = rig->ram().Mark();
  const bool packed = size > 0 && (data[0] & 1U) != 0;
  rig->UseRing(packed ? wyvern::devices::testing::RingKind::kPacked
                      : wyvern::devices::testing::RingKind::kSplit);
  rig->Start();
  if (size > 0) {
    PlayRingImages(*rig, 0, std::span(data, size).subspan(1));
  }
  (void)rig->core().Pause();
  rig->core().WriteStatus(0);
  rig->ram().Release(mark);
  return 0;
}
