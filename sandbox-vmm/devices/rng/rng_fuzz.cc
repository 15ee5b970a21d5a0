// A hostile driver of the entropy device, and an owner who limits it and takes snapshots of it.
// Input:   1 B what follows: bit 7 a driver and its chains (testing/fuzz_chains.h), else the ring's
//          memory, several times over (testing/ring_images.h). Then bit 0 is a rate limit, bit 1 a
//          packed ring.
#include <algorithm>
#include <chrono>
#include <memory>
#include <span>

#include "base/check.h"
#include "rng/rng_device.h"
#include "testing/device_rig.h"
#include "testing/fuzz_chains.h"
#include "testing/ring_images.h"

namespace {

using std::chrono::microseconds;
using wyvern::devices::RateLimiterConfig;
using wyvern::devices::RngDevice;
using wyvern::devices::RngState;
using wyvern::devices::testing::ChainPlayer;
using wyvern::devices::testing::ChainRecord;
using wyvern::devices::testing::DeviceRig;
using wyvern::devices::testing::GoodChain;
using wyvern::devices::testing::RingKind;

struct Fuzzed {
  RngDevice* device = nullptr;
  std::unique_ptr<DeviceRig> rig;
};

Fuzzed* MakeFuzzed() {
  auto device = RngDevice::Create({.name = "rng", .on_thread_start = nullptr});
  WV_CHECK(device.has_value());
  auto fuzzed = std::make_unique<Fuzzed>();
  fuzzed->device = device->get();
  fuzzed->rig = std::make_unique<DeviceRig>(*std::move(device));
  return fuzzed.release();
}

RateLimiterConfig Limits(const ChainRecord& record) {
  const wyvern::devices::TokenBucketConfig bucket{
      .size = record.lengths.value() % 100'000,
      .one_time_burst = record.value.value() >> 16U,
      .refill_time = microseconds(record.value.value() % 5'000)};
  RateLimiterConfig limits;
  if ((record.field & 1U) != 0) {
    limits.ops = bucket;
  }
  if ((record.field & 2U) != 0) {
    limits.bandwidth = bucket;
  }
  return limits;
}

// The device's own operation: limits, a snapshot with debt or of another version, configuration.
void Owner(Fuzzed& fuzzed, const ChainRecord& record) {
  switch (record.parts % 4) {
    case 0:
    case 1:
      fuzzed.device->SetRateLimits(Limits(record));
      break;
    case 2: {
      RngState state = fuzzed.device->SaveState();
      state.version += record.field >> 7U;
      state.limits.ops.tokens = static_cast<int32_t>(record.value.value());
      state.limits.bandwidth.burst_left = record.lengths.value();
      const bool taken = fuzzed.device->RestoreState(state).has_value();
      WV_CHECK(taken == (state.version == RngState::kVersion));
      break;
    }
    default: {
      const uint32_t offset = record.value;
      fuzzed.rig->core().WriteConfig(offset, std::as_bytes(std::span(&record.lengths, 1)));
      WV_CHECK(fuzzed.rig->Config<uint32_t>(offset) == 0);
      break;
    }
  }
}

void PlayChains(Fuzzed& fuzzed, std::span<const uint8_t> input) {
  ChainPlayer player(
      *fuzzed.rig,
      {.written =
           [](const GoodChain& chain) { return std::min(chain.writable, RngDevice::kMaxBytes); },
       .own = [&fuzzed](const ChainRecord& record) { Owner(fuzzed, record); },
       .unblock = [&fuzzed] { fuzzed.device->SetRateLimits({}); }});
  player.Run(input);
}

void PlayImages(Fuzzed& fuzzed, uint8_t what, std::span<const uint8_t> images) {
  if ((what & 1U) != 0) {
    RateLimiterConfig limits;
    limits.ops = {.size = 2, .one_time_burst = 0, .refill_time = std::chrono::milliseconds(1)};
    fuzzed.device->SetRateLimits(limits);
  }
  PlayRingImages(*fuzzed.rig, (what & 2U) != 0 ? RingKind::kPacked : RingKind::kSplit, images);
  fuzzed.device->SetRateLimits({});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* fuzzed = MakeFuzzed();
  if (size == 0) {
    return 0;
  }
  const auto rest = std::span(data, size).subspan(1);
  if ((data[0] & 0x80U) != 0) {
    PlayChains(*fuzzed, rest);
  } else {
    PlayImages(*fuzzed, data[0], rest);
  }
  return 0;
}
