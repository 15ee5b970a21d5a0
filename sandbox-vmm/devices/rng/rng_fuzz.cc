// A hostile driver of the entropy device: the input is the ring's memory, several times over.
// Input:   up to 2048 B of ring image (64 descriptors, available ring), then one more image per
//          kick. Its length decides whether there is a rate limit.
#include <chrono>

#include "base/check.h"
#include "rng/rng_device.h"
#include "testing/device_rig.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using wyvern::devices::RngDevice;
  static RngDevice* rng = nullptr;
  static auto* rig = [] {
    auto device = RngDevice::Create({.name = "rng", .on_thread_start = nullptr});
    WV_CHECK(device.has_value());
    rng = device->get();
    return new wyvern::devices::testing::DeviceRig(*std::move(device));
  }();
  wyvern::devices::RateLimiterConfig limits;
  if (size % 4 == 0) {
    limits.ops = {.size = 2, .one_time_burst = 0, .refill_time = std::chrono::milliseconds(1)};
  }
  rng->SetRateLimits(limits);
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
