#include "transport/pci_transport.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <map>
#include <vector>

#include "transport/testing/fixtures.h"
#include "transport/testing/shaped_device.h"

namespace wyvern::transport {
namespace {

using testing::PciGuest;
using testing::ShapedDevice;
using virtio::testing::FakeDevice;
using virtio::testing::GuestRam;

class PciTransportTest : public testing::PciFixture {
 protected:
  void StartQueue0(uint16_t vector = 1) {
    ASSERT_TRUE(guest_.Negotiate(virtio::kVersion1));
    guest_.SetUpQueue(0, driver_.config(), vector);
    guest_.DriverOk();
    ASSERT_EQ(guest_.status(), 15);
  }
};

TEST_F(PciTransportTest, GuestFindsAModernDeviceWithItsStructures) {
  EXPECT_EQ(guest_.ConfigRead<Le32>(0), 0x10441af4U);
  EXPECT_GE(guest_.ConfigRead<uint8_t>(8), 1);
  for (const uint8_t type : {1, 2, 3, 4, 5}) {
    EXPECT_TRUE(guest_.capabilities.contains(type)) << int{type};
  }
  EXPECT_NE(guest_.msix, 0);
  EXPECT_EQ(guest_.ConfigRead<Le16>(static_cast<uint16_t>(guest_.msix + 2)), 2U);  // 3 vectors
  const uint16_t notify = guest_.capabilities[2];
  EXPECT_EQ(guest_.ConfigRead<Le32>(static_cast<uint16_t>(notify + 8)), kNotifyOffset);
  EXPECT_EQ(guest_.ConfigRead<Le32>(static_cast<uint16_t>(notify + 16)), kNotifyMultiplier);
}

TEST_F(PciTransportTest, NegotiationStartsTheDevice) {
  EXPECT_EQ(guest_.OfferedFeatures(), device_->traits().features | virtio::kVersion1 |
                                          virtio::kRingReset | virtio::kNotificationData);
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueCount), 2U);
  StartQueue0();
  EXPECT_EQ(device_->calls, (std::vector<std::string>{"reset", "start 0"}));
  EXPECT_EQ(device_->running[0].resources.config.descriptor_area, driver_.config().descriptor_area);
  guest_.Set(CommonField::kQueueSelect, Le16(uint16_t{0}));
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueEnable), 1U);
  EXPECT_EQ(guest_.Get<Le32>(CommonField::kDeviceLow), mem::Raw(driver_.config().device_area));
}

TEST_F(PciTransportTest, FeatureWordsAreThoseSelected) {
  // VIRTIO §4.1.4.3.1: there are 64 bits; what the driver has accepted reads back.
  for (const uint32_t select : {2U, 3U, 0x10000U, 0x80000000U, 0xffffffffU}) {
    guest_.Set(CommonField::kDeviceFeatureSelect, Le32(select));
    EXPECT_EQ(guest_.Get<Le32>(CommonField::kDeviceFeature), 0U) << select;
    guest_.Set(CommonField::kDriverFeatureSelect, Le32(select));
    guest_.Set(CommonField::kDriverFeature, Le32(~0U));
    EXPECT_EQ(guest_.Get<Le32>(CommonField::kDriverFeature), 0U) << select;
  }
  ASSERT_TRUE(guest_.Negotiate(virtio::kVersion1 | virtio::kRingEventIdx));
  guest_.Set(CommonField::kDriverFeatureSelect, Le32(0U));
  EXPECT_EQ(guest_.Get<Le32>(CommonField::kDriverFeature), virtio::kRingEventIdx);
  guest_.Set(CommonField::kDriverFeatureSelect, Le32(1U));
  EXPECT_EQ(guest_.Get<Le32>(CommonField::kDriverFeature), virtio::kVersion1 >> 32U);
}

TEST_F(PciTransportTest, EnabledQueueHasADoorbellThatFollowsTheBar) {
  StartQueue0();
  ASSERT_EQ(guest_.doorbells.assigned.size(), 1U);
  EXPECT_EQ(mem::Raw(guest_.doorbells.assigned[0].doorbell.address), guest_.bar + kNotifyOffset);
  EXPECT_EQ(guest_.doorbells.assigned[0].event_fd, device_->running[0].resources.kick.get());
  guest_.ConfigWrite(0x10, Le32(static_cast<uint32_t>(PciGuest::kWindow + 0x80000)));
  ASSERT_EQ(guest_.doorbells.assigned.size(), 1U);
  EXPECT_EQ(mem::Raw(guest_.doorbells.assigned[0].doorbell.address),
            PciGuest::kWindow + 0x80000 + kNotifyOffset);
  guest_.ConfigWrite(0x04, Le16(uint16_t{0}));
  EXPECT_TRUE(guest_.doorbells.assigned.empty());
  guest_.ConfigWrite(0x04, Le16(uint16_t{6}));
  EXPECT_EQ(guest_.doorbells.assigned.size(), 1U);
}

TEST_F(PciTransportTest, NotificationThatIsNoDoorbellKicksTheQueue) {
  StartQueue0();
  const int kick = device_->running[0].resources.kick.get();
  uint64_t count = 0;
  EXPECT_EQ(read(kick, &count, 8), -1);
  guest_.Notify(0);
  EXPECT_EQ(read(kick, &count, 8), 8);
  guest_.Notify(200);  // no such queue
  guest_.Write(kNotifyOffset + 2, Le16(uint16_t{0}));
}

// A process that had the old one may hold up whoever writes to it.
TEST_F(PciTransportTest, RenewedKickIsNotifiedOnceAndHasTheDoorbell) {
  StartQueue0();
  virtio::QueueResources& resources = device_->running[0].resources;
  const UniqueFd old(::fcntl(resources.kick.get(), F_DUPFD_CLOEXEC, 0));
  const auto renewed = resources.renew_kick();
  ASSERT_TRUE(renewed.has_value()) << renewed.error().message();
  const int kick = renewed->get();
  uint64_t count = 0;
  EXPECT_EQ(read(kick, &count, 8), 8);
  EXPECT_EQ(count, 1U);
  ASSERT_EQ(guest_.doorbells.assigned.size(), 1U);
  EXPECT_EQ(guest_.doorbells.assigned[0].event_fd, kick);
  EXPECT_TRUE(guest_.Ring(0, Le16(uint16_t{0})));
  EXPECT_EQ(read(kick, &count, 8), 8);
  guest_.Notify(0);
  EXPECT_EQ(read(kick, &count, 8), 8);
  EXPECT_EQ(read(old.get(), &count, 8), -1);
  // It moves with the BAR, and is that of the next start, too.
  guest_.ConfigWrite(0x10, Le32(static_cast<uint32_t>(PciGuest::kWindow + 0x80000)));
  guest_.bar = PciGuest::kWindow + 0x80000;
  ASSERT_EQ(guest_.doorbells.assigned.size(), 1U);
  EXPECT_EQ(guest_.doorbells.assigned[0].event_fd, kick);
  guest_.SetStatus(0);
  StartQueue0();
  EXPECT_EQ(device_->running[0].resources.kick.get(), kick);
}

TEST_F(PciTransportTest, UsedBuffersSignalTheQueuesVector) {
  guest_.EnableMsix(3);
  StartQueue0(1);
  auto interrupt = device_->running[0].resources.interrupt;
  const int event = guest_.VectorEvent(1);
  uint64_t count = 0;
  interrupt->SignalQueue(0);
  EXPECT_EQ(read(event, &count, 8), 8);
  EXPECT_EQ(guest_.Read<uint8_t>(kIsrOffset), 0);
}

TEST_F(PciTransportTest, AnotherProcessSignalsTheQueuesVectorByAnEventfdOfItsOwn) {
  guest_.EnableMsix(3);
  StartQueue0(1);
  const int ours = guest_.VectorEvent(1);
  const int theirs = device_->running[0].resources.interrupt->QueueCallFd(0).get();
  ASSERT_GE(theirs, 0);
  EXPECT_NE(theirs, ours);
  std::vector<int> routed;
  for (const auto& [route, entry] : guest_.router.entries()) {
    if (!entry.masked && entry.message.data == PciGuest::kFirstMessage + 1) {
      routed.push_back(entry.event_fd);
    }
  }
  EXPECT_EQ(routed, (std::vector<int>{ours, theirs}));
}

// By the vCPU that sets it: a thread that starts the queue again (in memory that was plugged) may not be
// allowed to.
TEST_F(PciTransportTest, VectorThatIsChangedLaterIsRoutedForTheOtherProcessAtOnce) {
  guest_.EnableMsix(3);
  StartQueue0(1);
  auto interrupt = device_->running[0].resources.interrupt;
  ASSERT_TRUE(interrupt->QueueCallFd(0).valid());
  guest_.Set(CommonField::kQueueSelect, Le16(uint16_t{0}));
  guest_.Set(CommonField::kQueueVector, Le16(uint16_t{2}));
  const size_t routes = guest_.router.entries().size();
  const int updates = guest_.router.update_calls;
  EXPECT_TRUE(interrupt->QueueCallFd(0).valid());
  EXPECT_EQ(guest_.router.entries().size(), routes);
  EXPECT_EQ(guest_.router.update_calls, updates);
}

TEST_F(PciTransportTest, QueueWithoutVectorSignalsNothing) {
  guest_.EnableMsix(3);
  StartQueue0(kNoVector);
  device_->running[0].resources.interrupt->SignalQueue(0);
  EXPECT_FALSE(device_->running[0].resources.interrupt->QueueCallFd(0).valid());
}

TEST_F(PciTransportTest, WithoutMsixTheIsrTellsAndClearsOnRead) {
  StartQueue0();
  device_->running[0].resources.interrupt->SignalQueue(0);
  device_->running[0].resources.interrupt->SignalConfig();
  EXPECT_EQ(guest_.Read<uint8_t>(kIsrOffset), 3);
  EXPECT_EQ(guest_.Read<uint8_t>(kIsrOffset), 0);
}

TEST_F(PciTransportTest, ConfigChangeRaisesTheGeneration) {
  StartQueue0();
  EXPECT_EQ(guest_.Read<uint8_t>(kDeviceOffset), 0);
  const uint8_t before = guest_.Get<uint8_t>(CommonField::kGeneration);
  device_->config[0] = std::byte{1};
  device_->running[0].resources.interrupt->SignalConfig();
  EXPECT_EQ(guest_.Read<uint8_t>(kDeviceOffset), 1);
  EXPECT_NE(guest_.Get<uint8_t>(CommonField::kGeneration), before);
}

TEST_F(PciTransportTest, ConfigChangeIsInTheIsrWithMsixToo) {
  // VIRTIO §4.1.4.5.1
  guest_.EnableMsix(3);
  StartQueue0();
  guest_.Set(CommonField::kConfigVector, Le16(uint16_t{0}));
  device_->running[0].resources.interrupt->SignalConfig();
  uint64_t count = 0;
  EXPECT_EQ(read(guest_.VectorEvent(0), &count, 8), 8);
  EXPECT_EQ(guest_.Read<uint8_t>(kIsrOffset), 2);
  EXPECT_EQ(guest_.Read<uint8_t>(kIsrOffset), 0);
}

TEST_F(PciTransportTest, ConfigChangeWithoutVectorSignalsNothing) {
  // VIRTIO §4.1.5.4.1
  guest_.EnableMsix(3);
  StartQueue0(1);
  device_->running[0].resources.interrupt->SignalConfig();
  uint64_t count = 0;
  for (uint16_t vector = 0; vector < 3; ++vector) {
    const int event = guest_.VectorEvent(vector);
    ASSERT_GE(event, 0);
    EXPECT_EQ(read(event, &count, 8), -1) << vector;
  }
}

TEST_F(PciTransportTest, NotificationDataIsTakenByTheDoorbellAndByAnExit) {
  // VIRTIO §4.1.4.4.1: room for 32 bits per queue
  const auto notify = guest_.capabilities[2];
  EXPECT_EQ(guest_.ConfigRead<Le32>(static_cast<uint16_t>(notify + 12)), 8U);
  EXPECT_EQ(guest_.ConfigRead<Le32>(static_cast<uint16_t>(notify + 8)) % 4, 0U);
  EXPECT_EQ(guest_.ConfigRead<Le32>(static_cast<uint16_t>(notify + 16)) % 4, 0U);
  ASSERT_TRUE(guest_.Negotiate(virtio::kVersion1 | virtio::kNotificationData));
  guest_.SetUpQueue(0, driver_.config(), 1);
  guest_.DriverOk();
  const int kick = device_->running[0].resources.kick.get();
  uint64_t count = 0;
  EXPECT_TRUE(guest_.Ring(0, Le32(0x80150000U)));
  EXPECT_EQ(read(kick, &count, 8), 8);
  guest_.Write(kNotifyOffset, Le32(0x80150000U));
  EXPECT_EQ(read(kick, &count, 8), 8);
}

class PciSharedMemoryTest : public ::testing::Test {
 protected:
  static Result<std::shared_ptr<PciTransport>> Make(
      PciGuest& guest, const GuestRam& ram, std::vector<virtio::SharedMemoryRegion> regions) {
    virtio::DeviceTraits traits = ShapedDevice::Traits();
    traits.shared_memory = std::move(regions);
    return PciTransport::Create(std::make_unique<ShapedDevice>(std::move(traits)), ram.memory(),
                                guest.router, guest.doorbells);
  }

  GuestRam ram_;
  PciGuest guest_;
};

constexpr uint64_t kGiB = uint64_t{1} << 30U;

TEST_F(PciSharedMemoryTest, EachRegionHasACapabilityOf64Bits) {
  // VIRTIO §4.1.4.7, struct virtio_pci_cap64
  auto made =
      Make(guest_, ram_, {{.id = 0, .length = 5 * kGiB + 4096}, {.id = 5, .length = 6 * kGiB}});
  ASSERT_TRUE(made);
  guest_.Plug(*made);
  std::vector<std::array<uint64_t, 4>> found;  // id, bar, offset, length
  for (uint16_t at = guest_.ConfigRead<uint8_t>(0x34); at != 0;
       at = guest_.ConfigRead<uint8_t>(static_cast<uint16_t>(at + 1))) {
    const auto field = [&](uint16_t offset) {
      return uint64_t{guest_.ConfigRead<Le32>(static_cast<uint16_t>(at + offset)).value()};
    };
    if (guest_.ConfigRead<uint8_t>(at) == kCapabilityVendor && (field(0) >> 24U) == 8) {
      EXPECT_EQ((field(0) >> 16U) & 0xffU, 24U);
      found.push_back({(field(4) >> 8U) & 0xffU, field(4) & 0xffU, field(8) | field(16) << 32U,
                       field(12) | field(20) << 32U});
    }
  }
  // Huge pages from a huge page on.
  const uint64_t second = 5 * kGiB + (2U << 20U);
  EXPECT_EQ(found, (std::vector<std::array<uint64_t, 4>>{{0, kSharedMemoryBar, 0, 5 * kGiB + 4096},
                                                         {5, kSharedMemoryBar, second, 6 * kGiB}}));
  EXPECT_EQ((*made)->bars().at(1).index, unsigned{kSharedMemoryBar});
  EXPECT_EQ((*made)->bars().at(1).size, 16 * kGiB);
}

TEST_F(PciSharedMemoryTest, MachineLearnsWhereARegionIsAndWhenItMoves) {
  auto made = Make(guest_, ram_, {{.id = 3, .length = 1 << 20}, {.id = 4, .length = 4096}});
  ASSERT_TRUE(made);
  std::map<uint8_t, std::optional<mem::Gpa>> places;
  int moves = 0;
  (*made)->set_shared_memory_callback([&](uint8_t id, std::optional<mem::Gpa> address) {
    places[id] = address;
    ++moves;
  });
  guest_.Plug(*made);
  const uint64_t base = (*made)->mapped(kSharedMemoryBar).value_or(0);
  EXPECT_NE(base, 0U);
  EXPECT_EQ(places[3], mem::Gpa{base});
  EXPECT_EQ(places[4], mem::Gpa{base + (1 << 20)});
  EXPECT_EQ(moves, 2);
  guest_.ConfigWrite(0x18, Le32(static_cast<uint32_t>(PciGuest::kWindow + 0x800000)));
  EXPECT_EQ(places[3], mem::Gpa{PciGuest::kWindow + 0x800000});
  // Out of every window: nowhere.
  guest_.ConfigWrite(0x1c, Le32(0U));
  EXPECT_FALSE(places[3]);
  EXPECT_FALSE(places[4]);
  (*made)->set_shared_memory_callback({});
}

TEST_F(PciSharedMemoryTest, WhereNothingIsMappedTheGuestReadsZeros) {
  auto made = Make(guest_, ram_, {{.id = 0, .length = 4096}});
  ASSERT_TRUE(made);
  guest_.Plug(*made);
  const uint64_t base = (*made)->mapped(kSharedMemoryBar).value_or(0);
  uint64_t value = ~uint64_t{0};
  const auto bytes = std::as_writable_bytes(std::span(&value, 1));
  // As the registers of BAR 0 they would start the device.
  for (uint64_t offset = 0; offset < 64; offset += 8) {
    EXPECT_TRUE(guest_.mmio.Write(base + offset, bytes));
  }
  EXPECT_TRUE(guest_.mmio.Read(base, bytes));
  EXPECT_EQ(value, 0U);
  EXPECT_EQ(guest_.status(), 0);
  EXPECT_EQ((*made)->ignored_accesses(), 9U);
}

TEST_F(PciSharedMemoryTest, RegionsThatAreNoneAreAnError) {
  using Regions = std::vector<virtio::SharedMemoryRegion>;
  for (const Regions& regions :
       {Regions{{.id = 0, .length = 0}}, Regions{{.id = 0, .length = 4097}},
        Regions{{.id = 0, .length = uint64_t{1} << 63U}},
        Regions{{.id = 1, .length = 4096}, {.id = 1, .length = 4096}},
        Regions{{.id = 0, .length = 4096},
                {.id = 1, .length = 4096},
                {.id = 2, .length = 4096},
                {.id = 3, .length = 4096}}}) {
    EXPECT_EQ(Make(guest_, ram_, regions).error().code(), Code::kInvalidArgument);
  }
  EXPECT_TRUE(
      Make(guest_, ram_,
           {{.id = 0, .length = 4096}, {.id = 1, .length = 4096}, {.id = 255, .length = 4096}}));
}

TEST_F(PciTransportTest, Crosvm002cd87a0_VectorThatDoesNotExistReadsBackAsNoVector) {
  guest_.Set(CommonField::kConfigVector, Le16(uint16_t{3}));
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kConfigVector), kNoVector);
  guest_.Set(CommonField::kConfigVector, Le16(uint16_t{2}));
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kConfigVector), 2U);
  guest_.Set(CommonField::kQueueSelect, Le16(uint16_t{0xffff}));
  guest_.Set(CommonField::kQueueVector, Le16(uint16_t{1}));
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueVector), kNoVector);
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueSize), 0U);
}

TEST_F(PciTransportTest, Cve20265747_QueueSizeCannotChangeUnderTheDevice) {
  StartQueue0();
  guest_.Set(CommonField::kQueueSelect, Le16(uint16_t{0}));
  guest_.Set(CommonField::kQueueSize, Le16(uint16_t{0}));
  guest_.Set(CommonField::kQueueSize, Le16(uint16_t{64}));
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueSize), 16U);
  EXPECT_GE(transport_->core().refused_writes(), 2U);
}

TEST_F(PciTransportTest, ResetClearsVectorsAndSelectors) {
  guest_.Set(CommonField::kConfigVector, Le16(uint16_t{1}));
  guest_.Set(CommonField::kQueueSelect, Le16(uint16_t{1}));
  StartQueue0();
  guest_.SetStatus(0);
  EXPECT_EQ(guest_.status(), 0);
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kConfigVector), kNoVector);
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueSelect), 0U);
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueVector), kNoVector);
  EXPECT_TRUE(device_->running.empty());
}

TEST_F(PciTransportTest, DeviceConfigurationIsReachableInAnySize) {
  guest_.Write(kDeviceOffset + 2, Le16(uint16_t{0xbeef}));
  EXPECT_EQ(guest_.Read<Le32>(kDeviceOffset), 0xbeef0000U);
  EXPECT_EQ(guest_.Read<uint8_t>(kDeviceOffset + 3), 0xbe);
  EXPECT_EQ(guest_.Read<Le64>(kDeviceOffset), 0xbeef0000U);
  EXPECT_EQ(guest_.Read<Le64>(kDeviceOffset + 8), 0U);  // past the end
}

TEST_F(PciTransportTest, Ch8506_AccessesThatAreNoFieldReadAsZero) {
  EXPECT_EQ(guest_.Read<Le32>(kCommonOffset + 1), 0U);
  EXPECT_EQ(guest_.Read<Le64>(kCommonOffset + 16), 0U);
  EXPECT_EQ(guest_.Read<Le32>(kCommonOffset + 16), 0U);
  EXPECT_EQ(guest_.Read<Le64>(0x7ff8), 0U);
  guest_.Write(kCommonOffset + 20, Le32(0x0fU));
  EXPECT_EQ(guest_.status(), 0);
  guest_.Write(kCommonLength - 4, Le64(~uint64_t{0}));
}

TEST_F(PciTransportTest, PciAccessCapabilityReachesTheBarWithoutDecoding) {
  // VIRTIO §4.1.4.9
  guest_.ConfigWrite(0x04, Le16(uint16_t{0}));
  const uint16_t at = guest_.capabilities[5];
  const auto window = [&](uint32_t offset, uint32_t size) {
    guest_.ConfigWrite(static_cast<uint16_t>(at + 4), uint8_t{0});
    guest_.ConfigWrite(static_cast<uint16_t>(at + 8), Le32(offset));
    guest_.ConfigWrite(static_cast<uint16_t>(at + 12), Le32(size));
  };
  window(static_cast<uint32_t>(CommonField::kStatus), 1);
  guest_.ConfigWrite(static_cast<uint16_t>(at + 16), Le32(1U));
  EXPECT_EQ(guest_.ConfigRead<Le32>(static_cast<uint16_t>(at + 16)), 1U);
  EXPECT_EQ(transport_->core().status(), 1);
  window(static_cast<uint32_t>(CommonField::kQueueCount), 2);
  EXPECT_EQ(guest_.ConfigRead<Le32>(static_cast<uint16_t>(at + 16)), 2U);
}

TEST_F(PciTransportTest, PciAccessCapabilityOutsideItsRulesDoesNothing) {
  const uint16_t at = guest_.capabilities[5];
  const auto poke = [&](uint8_t bar, uint32_t offset, uint32_t size) {
    guest_.ConfigWrite(static_cast<uint16_t>(at + 4), bar);
    guest_.ConfigWrite(static_cast<uint16_t>(at + 8), Le32(offset));
    guest_.ConfigWrite(static_cast<uint16_t>(at + 12), Le32(size));
    guest_.ConfigWrite(static_cast<uint16_t>(at + 16), Le32(0x01010101U));
    guest_.ConfigRead<Le32>(static_cast<uint16_t>(at + 16));
  };
  poke(0, 21, 3);
  poke(0, 22, 4);
  poke(0, 0xffffffff, 1);
  poke(0, 0x8000, 4);
  poke(5, 20, 1);
  poke(0xff, 20, 1);
  poke(0, 20, 0x80000000);
  EXPECT_EQ(transport_->core().status(), 0);
}

TEST_F(PciTransportTest, DoorbellThatCannotBeHadLeavesExits) {
  class NoDoorbells final : public irq::DoorbellRegistry {
    Result<> AssignIoeventfd(const irq::Doorbell&, const EventFd&) override {
      return Fail(Code::kResourceExhausted, "none left");
    }

    Result<> RemoveIoeventfd(const irq::Doorbell&, const EventFd&) override { return {}; }
  } none;

  PciGuest guest;
  auto device = std::make_unique<FakeDevice>();
  FakeDevice* raw = device.get();
  auto made = PciTransport::Create(std::move(device), ram_.memory(), guest.router, none);
  ASSERT_TRUE(made);
  guest.Plug(*made);
  ASSERT_TRUE(guest.Negotiate(virtio::kVersion1));
  guest.SetUpQueue(0, driver_.config(), 0);
  guest.DriverOk();
  guest.Notify(0);
  uint64_t count = 0;
  EXPECT_EQ(read(raw->running[0].resources.kick.get(), &count, 8), 8);
  EXPECT_TRUE(guest.bus.Remove({guest.slot}));
}

TEST_F(PciTransportTest, UnplugWhileRunningLeavesNoDoorbellAndNoRoute) {
  guest_.EnableMsix(3);
  StartQueue0();
  ASSERT_TRUE(guest_.bus.Remove({guest_.slot}));
  EXPECT_TRUE(guest_.doorbells.assigned.empty());
  transport_.reset();
  EXPECT_TRUE(guest_.router.entries().empty());
}

TEST_F(PciTransportTest, DeviceWithTooManyQueuesIsAnError) {
  auto made = PciTransport::Create(std::make_unique<FakeDevice>(std::vector<uint16_t>(256, 16)),
                                   ram_.memory(), guest_.router, guest_.doorbells);
  EXPECT_EQ(made.error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace wyvern::transport
