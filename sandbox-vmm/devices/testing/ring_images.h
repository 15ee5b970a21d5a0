// testing/ring_images.h — a driver that writes no descriptors but the ring's memory itself, as it
// comes from a fuzzer.
// Input:   images of 2048 B, the last one may be shorter: 1024 B descriptor area, then the driver
//          area (split: available ring; packed: event suppression). The rest of it is not used.
// Shape:   one queue, of 64 entries. After each image the device is notified, whether it wants to be
//          or not; it may still be at the one before.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "testing/device_rig.h"
#include "virtio/packed_ring_core.h"
#include "virtio/split_ring_core.h"

namespace wyvern::devices::testing {

// Leaves the device as it was before its first start.
inline void PlayRingImages(DeviceRig& rig, RingKind ring_kind, std::span<const uint8_t> input) {
  constexpr size_t kImage = 2048;
  const uint64_t mark = rig.ram().Mark();
  rig.UseRing(ring_kind);
  rig.Start();
  const virtio::testing::FakeDriver& driver = rig.queue(0);
  const virtio::QueueConfig& config = driver.config();
  const size_t descriptors = size_t{WV_DESC_SIZE} * config.size;
  const size_t wishes = driver.packed() ? size_t{WV_PACKED_EVENT_BYTES}
                                        : static_cast<size_t>(wv_ring_driver_bytes(config.size));
  while (!input.empty()) {
    const auto image = std::as_bytes(input.first(std::min(input.size(), kImage)));
    const auto ring = image.first(std::min(image.size(), descriptors));
    const auto rest = image.subspan(ring.size());
    (void)rig.ram().memory()->WriteBytes(config.descriptor_area, ring);
    (void)rig.ram().memory()->WriteBytes(config.driver_area,
                                         rest.first(std::min(rest.size(), wishes)));
    rig.KickAlways(0);
    input = input.subspan(image.size());
  }
  (void)rig.core().Pause();
  rig.core().WriteStatus(0);
  rig.ram().Release(mark);
}

}  // namespace wyvern::devices::testing
