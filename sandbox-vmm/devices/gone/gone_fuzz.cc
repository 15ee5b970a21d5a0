// A hostile driver of what is left of a device of any kind.
// Input:   1 B the kind and, by its lowest bit, a packed ring; then the ring's memory, several times over (testing/ring_images.h).
#include <array>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "gone/gone_device.h"
#include "testing/device_rig.h"
#include "testing/ring_images.h"
#include "virtio/feature_bits.h"

namespace {

using wyvern::devices::GoneDevice;
using wyvern::devices::testing::DeviceRig;
using wyvern::devices::testing::RingKind;
namespace virtio = wyvern::virtio;

constexpr std::array<uint16_t, 9> kKinds = {
    virtio::kDeviceNet,     virtio::kDeviceBlock,   virtio::kDeviceConsole,
    virtio::kDeviceEntropy, virtio::kDeviceBalloon, virtio::kDeviceVsock,
    virtio::kDeviceMem,     virtio::kDeviceFs,      virtio::kDevicePmem};

std::unique_ptr<DeviceRig> Make(uint16_t kind) {
  virtio::DeviceTraits traits;
  traits.device_id = kind;
  traits.features = virtio::kRingFeatures | virtio::kRingPacked;
  traits.queue_sizes = {64};
  traits.config_length = 8;
  traits.name = "gone";
  auto device = GoneDevice::Create({.name = "gone", .on_thread_start = nullptr}, traits,
                                   std::vector<std::byte>(8));
  WV_CHECK(device.has_value());
  return std::make_unique<DeviceRig>(*std::move(device));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* rigs = new std::array<std::unique_ptr<DeviceRig>, kKinds.size()>;
  if (size == 0) {
    return 0;
  }
  const size_t kind = (data[0] >> 1U) % kKinds.size();
  auto& rig = (*rigs)[kind];
  if (rig == nullptr) {
    rig = Make(kKinds[kind]);
  }
  PlayRingImages(*rig, (data[0] & 1U) != 0 ? RingKind::kPacked : RingKind::kSplit,
                 std::span(data, size).subspan(1));
  return 0;
}
