#include "transport/mmio_transport.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "transport/testing/fixtures.h"
#include "transport/testing/shaped_device.h"
#include "transport/virtio_pci_layout.h"

namespace wyvern::transport {
namespace {

using testing::MmioGuest;
using testing::ShapedDevice;
using virtio::testing::FakeDevice;
using virtio::testing::FakeDriver;

class MmioTransportTest : public testing::MmioFixture {
 protected:
  void StartQueue0() {
    ASSERT_TRUE(guest_.Negotiate(virtio::kVersion1));
    guest_.SetUpQueue(0, driver_.config());
    guest_.DriverOk();
    ASSERT_EQ(guest_.status(), 15);
  }

  bool Kicked() {
    uint64_t count = 0;
    return read(device_->running.at(0).resources.kick.get(), &count, 8) == 8;
  }
};

TEST_F(MmioTransportTest, DriverFindsADeviceOfVersion2) {
  EXPECT_EQ(guest_.Get(MmioRegister::kMagicValue), 0x74726976U);
  EXPECT_EQ(guest_.Get(MmioRegister::kVersion), 2U);
  EXPECT_EQ(guest_.Get(MmioRegister::kDeviceId), 4U);
  EXPECT_EQ(guest_.Get(MmioRegister::kVendorId), 0x1af4U);
  EXPECT_EQ(transport_->ignored_accesses(), 0U);
}

TEST_F(MmioTransportTest, NegotiationStartsTheDevice) {
  EXPECT_EQ(guest_.OfferedFeatures(),
            device_->traits().features | virtio::kVersion1 | virtio::kRingReset);
  StartQueue0();
  EXPECT_EQ(device_->calls, (std::vector<std::string>{"reset", "start 0"}));
  EXPECT_EQ(device_->running[0].resources.config.descriptor_area, driver_.config().descriptor_area);
  EXPECT_EQ(device_->running[0].resources.config.driver_area, driver_.config().driver_area);
  EXPECT_EQ(device_->running[0].resources.config.device_area, driver_.config().device_area);
  EXPECT_EQ(device_->running[0].resources.config.size, 16);
  EXPECT_EQ(guest_.Get(MmioRegister::kQueueReady), 1U);
  EXPECT_EQ(guest_.QueueSizeMax(0), 64);  // the device's, not the driver's choice
  guest_.Set(MmioRegister::kQueueSelect, 1);
  EXPECT_EQ(guest_.Get(MmioRegister::kQueueReady), 0U);
}

TEST_F(MmioTransportTest, FeatureWordsBeyondTheSecondAreZero) {
  for (const uint32_t select : {2U, 0x10000U, 0x80000000U, 0xffffffffU}) {
    guest_.Set(MmioRegister::kDeviceFeaturesSelect, select);
    EXPECT_EQ(guest_.Get(MmioRegister::kDeviceFeatures), 0U) << select;
  }
}

TEST_F(MmioTransportTest, Ch082fdc4d0_QueueThatDoesNotExistHasNoSizeAndIgnoresWrites) {
  ASSERT_TRUE(guest_.Negotiate(virtio::kVersion1));
  for (const uint32_t select : {2U, 0xffffU, 0x10000U, 0xffffffffU}) {
    guest_.Set(MmioRegister::kQueueSelect, select);
    EXPECT_EQ(guest_.Get(MmioRegister::kQueueSizeMax), 0U) << select;
    guest_.Set(MmioRegister::kQueueSize, 16);
    guest_.Set(MmioRegister::kDescriptorHigh, 1);
    guest_.Set(MmioRegister::kQueueReady, 1);
    EXPECT_EQ(guest_.Get(MmioRegister::kQueueReady), 0U) << select;
    guest_.Set(MmioRegister::kQueueReady, 0);
    EXPECT_EQ(guest_.Get(MmioRegister::kQueueReset), 0U) << select;
  }
  EXPECT_FALSE(transport_->core().queue(0).enabled);
}

TEST_F(MmioTransportTest, ValuesAreNotCutToTheWidthOfTheirMeaning) {
  ASSERT_TRUE(guest_.Negotiate(virtio::kVersion1));
  guest_.Set(MmioRegister::kQueueSelect, 0);
  guest_.Set(MmioRegister::kQueueSize, 0x10010);
  EXPECT_EQ(transport_->core().queue(0).config.size, 64);
  guest_.Set(MmioRegister::kStatus, 0x100);
  EXPECT_EQ(guest_.status(), 11);
  guest_.Set(MmioRegister::kQueueReady, 0x101);
  EXPECT_EQ(guest_.Get(MmioRegister::kQueueReady), 0U);
}

TEST_F(MmioTransportTest, InterruptStatusHoldsTheLineUntilEveryEventIsAcknowledged) {
  StartQueue0();
  auto interrupt = device_->running[0].resources.interrupt;
  EXPECT_FALSE(interrupt->QueueCallFd(0).valid());
  interrupt->SignalQueue(0);
  EXPECT_TRUE(line_.level);
  EXPECT_EQ(guest_.Get(MmioRegister::kInterruptStatus), 1U);
  EXPECT_EQ(guest_.Get(MmioRegister::kInterruptStatus), 1U);  // reading does not clear it
  interrupt->SignalConfig();
  EXPECT_EQ(guest_.Get(MmioRegister::kInterruptStatus), 3U);
  guest_.Set(MmioRegister::kInterruptAck, 1);
  EXPECT_TRUE(line_.level);
  EXPECT_EQ(guest_.Get(MmioRegister::kInterruptStatus), 2U);
  guest_.Set(MmioRegister::kInterruptAck, 0xffffffff);
  EXPECT_FALSE(line_.level);
  EXPECT_EQ(guest_.Get(MmioRegister::kInterruptStatus), 0U);
  EXPECT_EQ(line_.rises, 1);
}

// A process that had the old one may hold up whoever writes to it.
TEST_F(MmioTransportTest, RenewedKickIsNotifiedOnceAndHasTheDoorbell) {
  StartQueue0();
  virtio::QueueResources& resources = device_->running[0].resources;
  const UniqueFd old(::fcntl(resources.kick.get(), F_DUPFD_CLOEXEC, 0));
  const auto renewed = resources.renew_kick();
  ASSERT_TRUE(renewed.has_value()) << renewed.error().message();
  uint64_t count = 0;
  EXPECT_EQ(::read(renewed->get(), &count, sizeof(count)), ssize_t{sizeof(count)});
  EXPECT_EQ(count, 1U);
  ASSERT_EQ(guest_.doorbells.assigned.size(), 1U);
  EXPECT_EQ(guest_.doorbells.assigned[0].event_fd, renewed->get());
  guest_.Set(MmioRegister::kQueueNotify, 0);  // as an exit
  EXPECT_EQ(::read(renewed->get(), &count, sizeof(count)), ssize_t{sizeof(count)});
  EXPECT_EQ(::read(old.get(), &count, sizeof(count)), -1);
}

TEST_F(MmioTransportTest, EventLineHasASignalPerEvent) {
  auto event = EventFd::Create();
  ASSERT_TRUE(event);
  EventLine line(*std::move(event));
  auto device = std::make_unique<FakeDevice>();
  FakeDevice* raw = device.get();
  MmioGuest guest;
  auto made = MmioTransport::Create(std::move(device), ram_.memory(), line, nullptr,
                                    {.address = MmioGuest::kBase});
  ASSERT_TRUE(made);
  guest.Plug(*made);
  ASSERT_TRUE(guest.Negotiate(virtio::kVersion1));
  guest.SetUpQueue(0, driver_.config());
  guest.DriverOk();
  raw->running[0].resources.interrupt->SignalQueue(0);
  EXPECT_EQ(line.event().Drain(), 1U);
  raw->running[0].resources.interrupt->SignalQueue(0);  // not acknowledged yet
  EXPECT_EQ(line.event().Drain(), 1U);
  guest.Set(MmioRegister::kInterruptAck, 1);
  EXPECT_EQ(line.event().Drain(), 0U);
}

TEST_F(MmioTransportTest, ResetClearsInterruptsReadinessAndSelectors) {
  // VIRTIO §4.2.2.1
  StartQueue0();
  device_->running[0].resources.interrupt->SignalQueue(0);
  guest_.Set(MmioRegister::kStatus, 0);
  EXPECT_EQ(guest_.status(), 0);
  EXPECT_EQ(guest_.Get(MmioRegister::kInterruptStatus), 0U);
  EXPECT_FALSE(line_.level);
  EXPECT_EQ(guest_.Get(MmioRegister::kQueueReady), 0U);
  EXPECT_TRUE(device_->running.empty());
}

TEST_F(MmioTransportTest, BrokenDeviceSaysSoByAConfigurationInterrupt) {
  StartQueue0();
  device_->Break();
  EXPECT_EQ(guest_.status(), 15 | virtio::kStatusNeedsReset);
  EXPECT_EQ(guest_.Get(MmioRegister::kInterruptStatus), kMmioConfigChange);
}

TEST_F(MmioTransportTest, EachReadyQueueHasADoorbellForItsIndex) {
  StartQueue0();
  ASSERT_EQ(guest_.doorbells.assigned.size(), 1U);
  const irq::Doorbell& doorbell = guest_.doorbells.assigned[0].doorbell;
  EXPECT_EQ(mem::Raw(doorbell.address), MmioGuest::kBase + 0x50);
  EXPECT_EQ(doorbell.length, 4U);
  EXPECT_EQ(doorbell.match.value_or(9), 0U);
  EXPECT_TRUE(guest_.Ring(0));
  EXPECT_TRUE(Kicked());
  EXPECT_FALSE(guest_.Ring(1));  // not ready: an exit
}

TEST_F(MmioTransportTest, NotificationThatIsNoDoorbellKicksTheQueue) {
  StartQueue0();
  EXPECT_FALSE(Kicked());
  guest_.Set(MmioRegister::kQueueNotify, 0);
  EXPECT_TRUE(Kicked());
  for (const uint32_t queue : {2U, 0x10000U, 0xffffffffU}) {
    guest_.Set(MmioRegister::kQueueNotify, queue);
    EXPECT_FALSE(Kicked()) << queue;
  }
  EXPECT_EQ(transport_->ignored_accesses(), 3U);
}

TEST_F(MmioTransportTest, NotifyBeforeReadyIsRemembered) {
  guest_.Set(MmioRegister::kQueueNotify, 0);
  StartQueue0();
  EXPECT_TRUE(Kicked());  // a kick without work does no harm
}

TEST_F(MmioTransportTest, NotificationDataIsOfferedWhereNoDoorbellIsLostByIt) {
  EXPECT_EQ(guest_.OfferedFeatures() & virtio::kNotificationData, 0U);
  auto device = std::make_unique<FakeDevice>();
  FakeDevice* raw = device.get();
  MmioGuest guest;
  auto made = MmioTransport::Create(std::move(device), ram_.memory(), line_, nullptr,
                                    {.address = MmioGuest::kBase});
  ASSERT_TRUE(made);
  guest.Plug(*made);
  EXPECT_NE(guest.OfferedFeatures() & virtio::kNotificationData, 0U);
  ASSERT_TRUE(guest.Negotiate(virtio::kVersion1 | virtio::kNotificationData));
  guest.SetUpQueue(1, driver_.config());
  guest.DriverOk();
  guest.Ring(0x80150001);  // next_wrap 1, next_off 0x15, queue 1
  uint64_t count = 0;
  EXPECT_EQ(read(raw->running.at(1).resources.kick.get(), &count, 8), 8);
  EXPECT_EQ(raw->running.at(1).features, virtio::kVersion1);  // the transport's affair
}

TEST_F(MmioTransportTest, DoorbellThatCannotBeHadLeavesExits) {
  class NoDoorbellLeft final : public irq::DoorbellRegistry {
    Result<> AssignIoeventfd(const irq::Doorbell&, const EventFd&) override {
      return Fail(Code::kResourceExhausted, "none left");
    }

    Result<> RemoveIoeventfd(const irq::Doorbell&, const EventFd&) override {
      return Fail(Code::kNotFound, "was never there");
    }
  } none;

  auto device = std::make_unique<FakeDevice>();
  FakeDevice* raw = device.get();
  MmioGuest guest;
  auto made = MmioTransport::Create(std::move(device), ram_.memory(), line_, &none,
                                    {.address = MmioGuest::kBase});
  ASSERT_TRUE(made);
  guest.Plug(*made);
  ASSERT_TRUE(guest.Negotiate(virtio::kVersion1));
  guest.SetUpQueue(0, driver_.config());
  guest.DriverOk();
  guest.Ring(0);
  uint64_t count = 0;
  EXPECT_EQ(read(raw->running[0].resources.kick.get(), &count, 8), 8);
}

TEST_F(MmioTransportTest, QueueIsNotTouchedWhileItIsNotReady) {
  // VIRTIO §4.2.2.1
  StartQueue0();
  guest_.Set(MmioRegister::kQueueSelect, 0);
  guest_.Set(MmioRegister::kQueueReady, 0);
  EXPECT_EQ(guest_.Get(MmioRegister::kQueueReady), 0U);
  EXPECT_TRUE(device_->running.empty());
  EXPECT_EQ(guest_.status(), 15);
  // Without a reset there is no way back.
  guest_.Set(MmioRegister::kQueueSize, 64);
  guest_.Set(MmioRegister::kQueueReady, 1);
  EXPECT_EQ(guest_.Get(MmioRegister::kQueueReady), 0U);
  EXPECT_EQ(transport_->core().queue(0).config.size, 16);
  StartQueue0();
  EXPECT_EQ(device_->running.size(), 1U);
}

TEST_F(MmioTransportTest, QueueThatIsNotReadyYetMayBeSetUpAnew) {
  ASSERT_TRUE(guest_.Negotiate(virtio::kVersion1));
  guest_.SetUpQueue(0, driver_.config());
  guest_.Set(MmioRegister::kQueueReady, 0);
  FakeDriver other(ram_, 8);
  guest_.SetUpQueue(0, other.config());
  guest_.DriverOk();
  EXPECT_EQ(device_->running[0].resources.config.size, 8);
}

TEST_F(MmioTransportTest, PausedQueueThatIsMadeUnreadyDoesNotResume) {
  StartQueue0();
  transport_->core().Pause();
  guest_.Set(MmioRegister::kQueueReady, 0);
  ASSERT_TRUE(transport_->core().Resume());
  EXPECT_TRUE(device_->running.empty());
}

TEST_F(MmioTransportTest, Cve20265747_QueueIsFrozenOnceReady) {
  StartQueue0();
  guest_.Set(MmioRegister::kQueueSelect, 0);
  guest_.Set(MmioRegister::kQueueSize, 0);
  guest_.Set(MmioRegister::kQueueSize, 64);
  guest_.Set(MmioRegister::kDeviceLow, 0);
  EXPECT_EQ(transport_->core().queue(0).config.size, 16);
  EXPECT_EQ(transport_->core().queue(0).config.device_area, driver_.config().device_area);
  EXPECT_EQ(transport_->core().refused_writes(), 3U);
}

TEST_F(MmioTransportTest, SharedMemoryIsWhereTheMachineHasPutIt) {
  virtio::DeviceTraits traits = ShapedDevice::Traits();
  traits.shared_memory = {{.id = 0, .length = uint64_t{5} << 32U}, {.id = 7, .length = 4096}};
  MmioGuest guest;
  auto made = MmioTransport::Create(
      std::make_unique<ShapedDevice>(std::move(traits)), ram_.memory(), line_, nullptr,
      {.address = MmioGuest::kBase, .shared_memory = {{uint8_t{0}, mem::Gpa{0x123400000000}}}});
  ASSERT_TRUE(made);
  guest.Plug(*made);
  const auto wide = [&](MmioRegister low) {
    const auto at = static_cast<uint64_t>(low);
    return uint64_t{guest.Read<Le32>(at)} | uint64_t{guest.Read<Le32>(at + 4)} << 32U;
  };
  guest.Set(MmioRegister::kSharedMemorySelect, 0);
  EXPECT_EQ(wide(MmioRegister::kSharedMemoryLengthLow), uint64_t{5} << 32U);
  EXPECT_EQ(wide(MmioRegister::kSharedMemoryBaseLow), 0x123400000000U);
  // 7 has no place; the others are none of the device's.
  for (const uint32_t select : {7U, 1U, 0x100U, 0xffffffffU}) {
    guest.Set(MmioRegister::kSharedMemorySelect, select);
    EXPECT_EQ(wide(MmioRegister::kSharedMemoryLengthLow), ~uint64_t{0}) << select;
    EXPECT_EQ(wide(MmioRegister::kSharedMemoryBaseLow), ~uint64_t{0}) << select;
  }
}

TEST_F(MmioTransportTest, ConfigurationIsReachableInAnySizeAndChangesRaiseTheGeneration) {
  guest_.Write(0x102, Le16(uint16_t{0xbeef}));
  EXPECT_EQ(guest_.Read<Le32>(0x100), 0xbeef0000U);
  EXPECT_EQ(guest_.Read<uint8_t>(0x103), 0xbe);
  EXPECT_EQ(guest_.Read<Le64>(0x100), 0xbeef0000U);
  EXPECT_EQ(guest_.Read<Le64>(0xff8), 0U);  // past the end
  const uint32_t before = guest_.Get(MmioRegister::kConfigGeneration);
  EXPECT_EQ(guest_.Get(MmioRegister::kConfigGeneration), before);
  device_->config[7] = std::byte{1};
  EXPECT_EQ(guest_.Read<Le32>(0x100), 0xbeef0000U);
  EXPECT_NE(guest_.Get(MmioRegister::kConfigGeneration), before);
}

TEST_F(MmioTransportTest, DeviceThatIsGoneLeavesNoDoorbellAndALowLine) {
  StartQueue0();
  device_->running[0].resources.interrupt->SignalQueue(0);
  ASSERT_TRUE(guest_.bus.Remove(MmioGuest::kBase, MmioTransport::kSize));
  transport_.reset();
  EXPECT_TRUE(guest_.doorbells.assigned.empty());
  EXPECT_FALSE(line_.level);
}

TEST_F(MmioTransportTest, DeviceThatDoesNotFitIsAnError) {
  virtio::DeviceTraits traits = ShapedDevice::Traits();
  traits.config_length = 0xf01;
  auto large = MmioTransport::Create(std::make_unique<ShapedDevice>(std::move(traits)),
                                     ram_.memory(), line_, nullptr, {});
  EXPECT_EQ(large.error().code(), Code::kInvalidArgument);
  auto many = MmioTransport::Create(std::make_unique<FakeDevice>(std::vector<uint16_t>(256, 16)),
                                    ram_.memory(), line_, nullptr, {});
  EXPECT_EQ(many.error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace wyvern::transport
