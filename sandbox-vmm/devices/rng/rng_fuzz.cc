// A hostile driver of the entropy device: the input is the ring's memory, several times over.
// Input:   1 B: bit 0 a rate limit, bit 1 a packed ring; then images of the ring
//          (testing/ring_images.h).
#include <chrono>

#include "base/check.h"
#include "rng/rng_device.h"
#include "testing/device_rig.h"
#include "testing/ring_images.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using wyvern::devices::RngDevice;
  using wyvern::devices::testing::RingKind;
  static RngDevice* rng = nullptr;
  static auto* rig = [] {
    auto device = RngDevice::Create({.name = "rng", .on_thread_start = nullptr});
    WV_CHECK(device.has_value());
    rng = device->get();
    return new wyvern::devices::testing::DeviceRig(*std::move(device));
  }();
  const uint8_t what = size > 0 ? data[0] : 0;
  wyvern::devices::RateLimiterConfig limits;
  if ((what & 1U) != 0) {
    limits.ops = {.size = 2, .one_time_burst = 0, .refill_time = std::chrono::milliseconds(1)};
  }
  rng->SetRateLimits(limits);
  const uint64_t mark = rig->ram().Mark();
  rig->UseRing((what & 2U) != 0 ? RingKind::kPacked : RingKind::kSplit);
  rig->Start();
  if (size > 0) {
    PlayRingImages(*rig, 0, std::span(data, size).subspan(1));
  }
  (void)rig->core().Pause();
  rig->core().WriteStatus(0);
  rig->ram().Release(mark);
  return 0;
}
