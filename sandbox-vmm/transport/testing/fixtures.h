// transport/testing/fixtures.h — a FakeDevice behind the core, PCI or MMIO, with memory, and a ring to set
// up: what the tests of a transport begin with.
#pragma once

#include <memory>
#include <utility>

#include <gtest/gtest.h>

#include "transport/mmio_transport.h"
#include "transport/pci_transport.h"
#include "transport/testing/mmio_guest.h"
#include "transport/testing/pci_guest.h"
#include "transport/transport_core.h"
#include "virtio/testing/fake_device.h"
#include "virtio/testing/fake_driver.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::transport::testing {

class DeviceFixture : public ::testing::Test {
 protected:
  // The device, to be given to a transport; device_ is what the test sees of it.
  std::unique_ptr<virtio::testing::FakeDevice> MakeDevice() {
    auto device = std::make_unique<virtio::testing::FakeDevice>();
    device_ = device.get();
    return device;
  }

  virtio::testing::GuestRam ram_;
  virtio::testing::FakeDriver driver_{ram_, 16};
  virtio::testing::FakeDevice* device_ = nullptr;
};

// A TransportCore that the test makes; all its queues have one kick.
class CoreFixture : public DeviceFixture {
 protected:
  void Make(std::unique_ptr<virtio::testing::FakeDevice> device, uint64_t transport_features = 0) {
    core_.reset();
    device_ = device.get();
    auto kick = EventFd::Create();
    EXPECT_TRUE(kick);
    kick_ = std::make_unique<EventFd>(*std::move(kick));
    core_ = std::make_unique<TransportCore>(
        std::move(device), ram_.memory(), interrupt_, [this](uint16_t) { return kick_->fd(); },
        transport_features);
  }

  // Up to FEATURES_OK.
  void Negotiate(uint64_t features = virtio::kVersion1) {
    using virtio::kStatusAcknowledge;
    using virtio::kStatusDriver;
    core_->WriteStatus(kStatusAcknowledge);
    core_->WriteStatus(kStatusAcknowledge | kStatusDriver);
    core_->WriteDriverFeatures(0, static_cast<uint32_t>(features));
    core_->WriteDriverFeatures(1, static_cast<uint32_t>(features >> 32U));
    core_->WriteStatus(kStatusAcknowledge | kStatusDriver | virtio::kStatusFeaturesOk);
  }

  void SetAreas(uint16_t index, const virtio::QueueConfig& config) {
    using Area = TransportCore::Area;
    const auto set = [&](Area area, mem::Gpa address) {
      core_->WriteQueueAddress(index, area, false, static_cast<uint32_t>(mem::Raw(address)));
      core_->WriteQueueAddress(index, area, true, static_cast<uint32_t>(mem::Raw(address) >> 32U));
    };
    core_->WriteQueueSize(index, config.size);
    set(Area::kDescriptor, config.descriptor_area);
    set(Area::kDriver, config.driver_area);
    set(Area::kDevice, config.device_area);
  }

  std::shared_ptr<virtio::testing::FakeInterrupt> interrupt_ =
      std::make_shared<virtio::testing::FakeInterrupt>();
  std::unique_ptr<EventFd> kick_;
  std::unique_ptr<TransportCore> core_;
};

class PciFixture : public DeviceFixture {
 protected:
  PciFixture() {
    auto made = PciTransport::Create(MakeDevice(), ram_.memory(), guest_.router, guest_.doorbells);
    EXPECT_TRUE(made);
    transport_ = *made;
    guest_.Plug(transport_);
  }

  PciGuest guest_;
  std::shared_ptr<PciTransport> transport_;
};

class MmioFixture : public DeviceFixture {
 protected:
  MmioFixture() {
    auto made = MmioTransport::Create(MakeDevice(), ram_.memory(), line_, &guest_.doorbells,
                                      {.address = MmioGuest::kBase});
    EXPECT_TRUE(made);
    transport_ = *made;
    guest_.Plug(transport_);
  }

  irq::testing::FakeLine line_;
  MmioGuest guest_;
  std::shared_ptr<MmioTransport> transport_;
};

}  // namespace wyvern::transport::testing
