// A hostile driver of the persistent memory device: the input is the ring's memory, several times over.
// Input:   up to 2048 B of ring image (64 descriptors, available ring), then one more image per kick.
//          Behind its memory the guest has a read-only page, as an image would be: a write there is a
//          fault of ours.
#include "base/check.h"
#include "pmem/pmem_device.h"
#include "testing/device_rig.h"

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
  rig->Start();
  const auto& config = rig->queue(0).config();
  while (size > 0) {
    const size_t piece = std::min<size_t>(size, 2048);
    const auto image = std::as_bytes(std::span(data, piece));
    (void)rig->ram().memory()->WriteBytes(config.descriptor_area,
                                          image.first(std::min<size_t>(piece, 1024)));
    if (piece > 1024) {
      (void)rig->ram().memory()->WriteBytes(
          config.driver_area, image.subspan(1024).first(std::min<size_t>(piece - 1024, 134)));
    }
    rig->KickAlways(0);
    data += piece;
    size -= piece;
  }
  (void)rig->core().Pause();
  rig->core().WriteStatus(0);
  rig->ram().Release(mark);
  return 0;
}
