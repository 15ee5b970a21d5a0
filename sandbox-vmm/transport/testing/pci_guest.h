// transport/testing/pci_guest.h — a guest driver's way to a virtio-pci function: walks the
// capabilities, maps BAR 0, negotiates.
#pragma once

#include <cstring>
#include <map>
#include <optional>

#include "base/check.h"
#include "base/endian.h"
#include "bus/bus.h"
#include "irq/testing/fake_interrupts.h"
#include "pci/pci_bus.h"
#include "transport/testing/doorbell_path.h"
#include "transport/virtio_pci_layout.h"
#include "virtio/feature_bits.h"
#include "virtio/queue.h"

namespace wyvern::transport::testing {

class PciGuest {
 public:
  static constexpr uint64_t kWindow = 0x200000000;
  static constexpr uint32_t kFirstMessage = 0x40;  // data of vector 0

  PciGuest() : mmio(~uint64_t{0}), bus(mmio, {.windows = {{kWindow, uint64_t{1} << 40U}}}) {}

  // Puts the function in and turns decoding on, as a guest does. Finds its structures.
  void Plug(std::shared_ptr<pci::Function> function) {
    auto added = bus.Add(std::move(function));
    WV_CHECK(added.has_value());
    slot = added->slot;
    bar = ConfigRead<Le32>(0x10) & ~uint32_t{0xf};
    bar |= uint64_t{ConfigRead<Le32>(0x14).value()} << 32U;
    ConfigWrite(0x04, Le16(uint16_t{6}));
    for (uint16_t at = ConfigRead<uint8_t>(0x34); at != 0;
         at = ConfigRead<uint8_t>(static_cast<uint16_t>(at + 1))) {
      const auto id = ConfigRead<uint8_t>(at);
      if (id == 0x11) {
        msix = at;
      } else {
        capabilities[ConfigRead<uint8_t>(static_cast<uint16_t>(at + 3))] = at;
      }
    }
  }

  template <typename T>
  T ConfigRead(uint16_t offset) {
    T value;
    bus.ecam()->Read(uint64_t{slot} << 15U | offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  template <typename T>
  void ConfigWrite(uint16_t offset, T value) {
    bus.ecam()->Write(uint64_t{slot} << 15U | offset, std::as_bytes(std::span(&value, 1)));
  }

  template <typename T>
  T Read(uint64_t offset) {
    T value{};
    mmio.Read(bar + offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  template <typename T>
  bool Write(uint64_t offset, T value) {
    return mmio.Write(bar + offset, std::as_bytes(std::span(&value, 1)));
  }

  template <typename T>
  T Get(CommonField field) {
    return Read<T>(kCommonOffset + static_cast<uint64_t>(field));
  }

  template <typename T>
  void Set(CommonField field, T value) {
    Write(kCommonOffset + static_cast<uint64_t>(field), value);
  }

  uint8_t status() { return Get<uint8_t>(CommonField::kStatus); }

  void SetStatus(unsigned value) { Set(CommonField::kStatus, static_cast<uint8_t>(value)); }

  uint64_t OfferedFeatures() {
    uint64_t features = 0;
    for (const uint32_t word : {0U, 1U}) {
      Set(CommonField::kDeviceFeatureSelect, Le32(word));
      features |= uint64_t{Get<Le32>(CommonField::kDeviceFeature).value()} << (32 * word);
    }
    return features;
  }

  // Up to FEATURES_OK; true if it stayed.
  bool Negotiate(uint64_t features) {
    SetStatus(0);
    SetStatus(1);
    SetStatus(3);
    for (const uint32_t word : {0U, 1U}) {
      Set(CommonField::kDriverFeatureSelect, Le32(word));
      Set(CommonField::kDriverFeature, Le32(static_cast<uint32_t>(features >> (32 * word))));
    }
    SetStatus(11);
    return (status() & virtio::kStatusFeaturesOk) != 0;
  }

  void SetUpQueue(uint16_t index, const virtio::QueueConfig& config, uint16_t vector) {
    Set(CommonField::kQueueSelect, Le16(index));
    Set(CommonField::kQueueSize, Le16(config.size));
    Set(CommonField::kQueueVector, Le16(vector));
    Address(CommonField::kDescriptorLow, config.descriptor_area);
    Address(CommonField::kDriverLow, config.driver_area);
    Address(CommonField::kDeviceLow, config.device_area);
    Set(CommonField::kQueueEnable, Le16(uint16_t{1}));
  }

  void DriverOk() { SetStatus(15); }

  // VIRTIO §4.1.4.3.2: true once the reset has ended, with the queue disabled.
  bool ResetQueue(uint16_t index) {
    Set(CommonField::kQueueSelect, Le16(index));
    Set(CommonField::kQueueReset, Le16(uint16_t{1}));
    return Get<Le16>(CommonField::kQueueReset) == 0 && Get<Le16>(CommonField::kQueueEnable) == 0;
  }

  uint16_t QueueSize(uint16_t index) {
    Set(CommonField::kQueueSelect, Le16(index));
    return Get<Le16>(CommonField::kQueueSize);
  }

  void EnableMsix(uint16_t vectors) {
    for (uint16_t i = 0; i < vectors; ++i) {
      const uint64_t entry = kMsixTableOffset + uint64_t{16} * i;
      Write(entry, Le32(0xfee00000U));
      Write(entry + 4, Le32(0U));
      Write(entry + 8, Le32(kFirstMessage + i));
      Write(entry + 12, Le32(0U));
    }
    ConfigWrite(static_cast<uint16_t>(msix + 2), Le16(uint16_t{0x8000}));
  }

  // As an exit, past any doorbell.
  bool Notify(uint16_t queue) {
    return Write(kNotifyOffset + uint64_t{kNotifyMultiplier} * queue, Le16(queue));
  }

  // As a machine does it: by the doorbell where there is one. True if it was.
  template <typename T>
  bool Ring(uint16_t queue, T value) {
    const uint64_t offset = kNotifyOffset + uint64_t{kNotifyMultiplier} * queue;
    if (RingDoorbell(doorbells, bar + offset, std::as_bytes(std::span(&value, 1)))) {
      return true;
    }
    Write(offset, value);
    return false;
  }

  // The eventfd of an MSI-X vector that EnableMsix programmed; -1 if there is none.
  int VectorEvent(uint16_t vector) const {
    for (const auto& [route, entry] : router.entries()) {
      if (!entry.masked && entry.message.data == kFirstMessage + vector) {
        return entry.event_fd;
      }
    }
    return -1;
  }

  irq::testing::FakeMsiRouter router;  // these two outlive what is plugged into the bus
  irq::testing::FakeDoorbells doorbells;
  bus::Bus mmio;
  pci::PciBus bus;
  uint8_t slot = 0;
  uint64_t bar = 0;
  uint16_t msix = 0;
  std::map<uint8_t, uint16_t> capabilities;  // cfg_type → offset

 private:
  void Address(CommonField low, mem::Gpa address) {
    const auto at = kCommonOffset + static_cast<uint64_t>(low);
    Write(at, Le32(static_cast<uint32_t>(mem::Raw(address))));
    Write(at + 4, Le32(static_cast<uint32_t>(mem::Raw(address) >> 32U)));
  }
};

}  // namespace wyvern::transport::testing
