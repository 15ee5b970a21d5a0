// transport/testing/mmio_guest.h — a guest driver's way to a virtio-mmio device: registers on a bus,
// doorbells, one interrupt.
#pragma once

#include <cstring>
#include <memory>

#include "base/check.h"
#include "base/endian.h"
#include "bus/bus.h"
#include "irq/testing/fake_interrupts.h"
#include "transport/mmio_transport.h"
#include "transport/testing/doorbell_path.h"
#include "transport/virtio_mmio_layout.h"
#include "virtio/feature_bits.h"
#include "virtio/queue.h"

namespace wyvern::transport::testing {

class MmioGuest {
 public:
  static constexpr uint64_t kBase = 0xd0000000;

  MmioGuest() : bus(~uint64_t{0}) {}

  void Plug(std::shared_ptr<MmioTransport> transport) {
    WV_CHECK(bus.Insert(kBase, MmioTransport::kSize, std::move(transport)).has_value());
  }

  template <typename T>
  T Read(uint64_t offset) {
    T value{};
    bus.Read(kBase + offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  template <typename T>
  void Write(uint64_t offset, T value) {
    bus.Write(kBase + offset, std::as_bytes(std::span(&value, 1)));
  }

  uint32_t Get(MmioRegister reg) { return Read<Le32>(static_cast<uint64_t>(reg)); }

  void Set(MmioRegister reg, uint32_t value) { Write(static_cast<uint64_t>(reg), Le32(value)); }

  uint8_t status() { return static_cast<uint8_t>(Get(MmioRegister::kStatus)); }

  uint64_t OfferedFeatures() {
    uint64_t features = 0;
    for (const uint32_t word : {0U, 1U}) {
      Set(MmioRegister::kDeviceFeaturesSelect, word);
      features |= uint64_t{Get(MmioRegister::kDeviceFeatures)} << (32 * word);
    }
    return features;
  }

  // Up to FEATURES_OK; true if it stayed.
  bool Negotiate(uint64_t features) {
    Set(MmioRegister::kStatus, 0);
    Set(MmioRegister::kStatus, 1);
    Set(MmioRegister::kStatus, 3);
    for (const uint32_t word : {0U, 1U}) {
      Set(MmioRegister::kDriverFeaturesSelect, word);
      Set(MmioRegister::kDriverFeatures, static_cast<uint32_t>(features >> (32 * word)));
    }
    Set(MmioRegister::kStatus, 11);
    return (status() & virtio::kStatusFeaturesOk) != 0;
  }

  // VIRTIO §4.2.3.2.
  void SetUpQueue(uint16_t index, const virtio::QueueConfig& config) {
    Set(MmioRegister::kQueueSelect, index);
    WV_CHECK(Get(MmioRegister::kQueueReady) == 0);
    Set(MmioRegister::kQueueSize, config.size);
    Address(MmioRegister::kDescriptorLow, config.descriptor_area);
    Address(MmioRegister::kDriverLow, config.driver_area);
    Address(MmioRegister::kDeviceLow, config.device_area);
    Set(MmioRegister::kQueueReady, 1);
  }

  void DriverOk() { Set(MmioRegister::kStatus, 15); }

  // VIRTIO §4.2.2.2: true once the reset has ended, with the queue disabled.
  bool ResetQueue(uint16_t index) {
    Set(MmioRegister::kQueueSelect, index);
    Set(MmioRegister::kQueueReset, 1);
    return Get(MmioRegister::kQueueReset) == 0 && Get(MmioRegister::kQueueReady) == 0;
  }

  uint16_t QueueSizeMax(uint16_t index) {
    Set(MmioRegister::kQueueSelect, index);
    return static_cast<uint16_t>(Get(MmioRegister::kQueueSizeMax));
  }

  // As a machine does it: by the doorbell where there is one. True if it was.
  bool Ring(uint32_t value) {
    const auto offset = static_cast<uint64_t>(MmioRegister::kQueueNotify);
    const Le32 written = value;
    if (RingDoorbell(doorbells, kBase + offset, std::as_bytes(std::span(&written, 1)))) {
      return true;
    }
    Write(offset, written);
    return false;
  }

  irq::testing::FakeDoorbells doorbells;  // outlives what is plugged into the bus
  bus::Bus bus;

 private:
  void Address(MmioRegister low, mem::Gpa address) {
    const auto at = static_cast<uint64_t>(low);
    Write(at, Le32(static_cast<uint32_t>(mem::Raw(address))));
    Write(at + 4, Le32(static_cast<uint32_t>(mem::Raw(address) >> 32U)));
  }
};

}  // namespace wyvern::transport::testing
