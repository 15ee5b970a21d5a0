// transport/virtio_pci_layout.h — structures of virtio over PCI and where PciTransport puts them in
// its BAR.
// Spec:    VIRTIO 1.4 §4.1.4.
#pragma once

#include <cstdint>

#include "base/endian.h"

namespace wyvern::transport {

inline constexpr uint16_t kVirtioVendor = 0x1af4;
inline constexpr uint16_t kVirtioDeviceBase = 0x1040;  // + device id
inline constexpr uint8_t kCapabilityVendor = 0x09;
inline constexpr uint16_t kNoVector = 0xffff;

enum class CapabilityType : uint8_t {
  kCommon = 1,
  kNotify = 2,
  kIsr = 3,
  kDevice = 4,
  kPciAccess = 5,
  kSharedMemory = 8,
};

// struct virtio_pci_cap without its first two bytes (id, next).
struct VirtioPciCapability {
  uint8_t length = 0;
  uint8_t type = 0;
  uint8_t bar = 0;
  uint8_t id = 0;
  uint8_t padding[2] = {};
  Le32 offset = 0;
  Le32 size = 0;
};

static_assert(sizeof(VirtioPciCapability) == 14);

// struct virtio_pci_cap64, likewise: offset and length of 64 bits.
struct VirtioPciCapability64 {
  VirtioPciCapability low;
  Le32 offset_high = 0;
  Le32 size_high = 0;
};

static_assert(sizeof(VirtioPciCapability64) == 22);

// Fields of struct virtio_pci_common_cfg. queue_notify_data (56) and what follows queue_reset exist
// only with features that we do not offer.
enum class CommonField : uint8_t {
  kDeviceFeatureSelect = 0,
  kDeviceFeature = 4,
  kDriverFeatureSelect = 8,
  kDriverFeature = 12,
  kConfigVector = 16,
  kQueueCount = 18,
  kStatus = 20,
  kGeneration = 21,
  kQueueSelect = 22,
  kQueueSize = 24,
  kQueueVector = 26,
  kQueueEnable = 28,
  kQueueNotifyOffset = 30,
  kDescriptorLow = 32,
  kDescriptorHigh = 36,
  kDriverLow = 40,
  kDriverHigh = 44,
  kDeviceLow = 48,
  kDeviceHigh = 52,
  kQueueReset = 58,
};

inline constexpr uint32_t kCommonLength = 60;

// BAR 0.
inline constexpr uint64_t kCommonOffset = 0x0000;
inline constexpr uint64_t kIsrOffset = 0x1000;
inline constexpr uint64_t kDeviceOffset = 0x2000;
inline constexpr uint64_t kNotifyOffset = 0x3000;
inline constexpr uint64_t kMsixTableOffset = 0x4000;
inline constexpr uint64_t kMsixPbaOffset = 0x5000;
inline constexpr uint32_t kRegionLength = 0x1000;
// VIRTIO §4.1.4.4.1: a power of two and, for NOTIFICATION_DATA, a multiple of 4.
inline constexpr uint32_t kNotifyMultiplier = 4;

// Shared-memory regions have a BAR of their own (and of its registers 2 and 3).
inline constexpr uint8_t kSharedMemoryBar = 2;

}  // namespace wyvern::transport
