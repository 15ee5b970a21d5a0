// transport/virtio_mmio_layout.h — registers of virtio over MMIO.
// Spec:    VIRTIO 1.4 §4.2.2, table 4.1.
#pragma once

#include <cstdint>

namespace wyvern::transport {

enum class MmioRegister : uint16_t {
  kMagicValue = 0x000,
  kVersion = 0x004,
  kDeviceId = 0x008,
  kVendorId = 0x00c,
  kDeviceFeatures = 0x010,
  kDeviceFeaturesSelect = 0x014,
  kDriverFeatures = 0x020,
  kDriverFeaturesSelect = 0x024,
  kQueueSelect = 0x030,
  kQueueSizeMax = 0x034,
  kQueueSize = 0x038,
  kQueueReady = 0x044,
  kQueueNotify = 0x050,
  kInterruptStatus = 0x060,
  kInterruptAck = 0x064,
  kStatus = 0x070,
  kDescriptorLow = 0x080,
  kDescriptorHigh = 0x084,
  kDriverLow = 0x090,
  kDriverHigh = 0x094,
  kDeviceLow = 0x0a0,
  kDeviceHigh = 0x0a4,
  kSharedMemorySelect = 0x0ac,
  kSharedMemoryLengthLow = 0x0b0,
  kSharedMemoryLengthHigh = 0x0b4,
  kSharedMemoryBaseLow = 0x0b8,
  kSharedMemoryBaseHigh = 0x0bc,
  kQueueReset = 0x0c0,
  kConfigGeneration = 0x0fc,
};

inline constexpr uint64_t kMmioConfig = 0x100;  // device-specific configuration, to the end

inline constexpr uint32_t kMmioMagic = 0x74726976;  // "virt"
inline constexpr uint32_t kMmioVersion = 2;

// Bits of InterruptStatus and InterruptACK.
inline constexpr uint32_t kMmioUsedBuffer = 1;
inline constexpr uint32_t kMmioConfigChange = 2;

}  // namespace wyvern::transport
