// virtio/feature_bits.h — feature bits and device numbers shared by transports and devices.
// Spec:    VIRTIO 1.4 §6 (reserved feature bits), §5 (device types), §2.1 (status).
#pragma once

#include <cstdint>

namespace wyvern::virtio {

inline constexpr uint64_t kRingIndirectDesc = uint64_t{1} << 28;
inline constexpr uint64_t kRingEventIdx = uint64_t{1} << 29;
inline constexpr uint64_t kVersion1 = uint64_t{1} << 32;
inline constexpr uint64_t kAccessPlatform = uint64_t{1} << 33;
inline constexpr uint64_t kRingPacked = uint64_t{1} << 34;
inline constexpr uint64_t kInOrder = uint64_t{1} << 35;
inline constexpr uint64_t kNotificationData = uint64_t{1} << 38;
inline constexpr uint64_t kRingReset = uint64_t{1} << 40;

// What every device of ours offers for its rings. A device that serves in order may add kInOrder.
inline constexpr uint64_t kRingFeatures = kRingIndirectDesc | kRingEventIdx | kRingPacked;

// VIRTIO §5
inline constexpr uint16_t kDeviceNet = 1;
inline constexpr uint16_t kDeviceBlock = 2;
inline constexpr uint16_t kDeviceConsole = 3;
inline constexpr uint16_t kDeviceEntropy = 4;
inline constexpr uint16_t kDeviceBalloon = 5;
inline constexpr uint16_t kDeviceVsock = 19;
inline constexpr uint16_t kDeviceMem = 24;
inline constexpr uint16_t kDeviceFs = 26;
inline constexpr uint16_t kDevicePmem = 27;

// Device status, VIRTIO §2.1
inline constexpr uint8_t kStatusAcknowledge = 1;
inline constexpr uint8_t kStatusDriver = 2;
inline constexpr uint8_t kStatusDriverOk = 4;
inline constexpr uint8_t kStatusFeaturesOk = 8;
inline constexpr uint8_t kStatusNeedsReset = 64;
inline constexpr uint8_t kStatusFailed = 128;

}  // namespace wyvern::virtio
