// VIRTIO_F_RING_RESET (VIRTIO §2.6.1): at the core, and through the registers of PCI and MMIO.
#include <gtest/gtest.h>

#include <latch>
#include <memory>
#include <thread>

#include "transport/testing/fixtures.h"

namespace wyvern::transport {
namespace {

using virtio::testing::FakeDevice;
using virtio::testing::FakeDriver;

constexpr uint64_t kResettable = virtio::kVersion1 | virtio::kRingReset;

// Rings for a second queue, and for one that was reset.
template <typename Fixture>
class WithMoreRings : public Fixture {
 protected:
  FakeDriver second_{this->ram_, 16};
  FakeDriver larger_{this->ram_, 32};
};

class QueueResetTest : public WithMoreRings<testing::CoreFixture> {
 protected:
  QueueResetTest() {
    Make(MakeDevice(), virtio::kRingReset);
    Start(kResettable);
  }

  // Both queues run.
  void Start(uint64_t features) {
    core_->WriteStatus(0);
    Negotiate(features);
    SetUpQueue(0, driver_.config());
    SetUpQueue(1, second_.config());
    core_->WriteStatus(15);
    device_->calls.clear();
  }

  void SetUpQueue(uint16_t index, const virtio::QueueConfig& config) {
    SetAreas(index, config);
    core_->EnableQueue(index);
  }
};

TEST_F(QueueResetTest, ResetStopsOneQueueAndTheOthersGoOn) {
  EXPECT_TRUE(core_->ResetQueue(0));
  EXPECT_EQ(device_->calls, std::vector<std::string>{"stop 0"});
  EXPECT_FALSE(core_->running(0));
  EXPECT_TRUE(core_->running(1));
  EXPECT_EQ(core_->status(), 15);
  EXPECT_FALSE(core_->queue_resetting(0));
}

TEST_F(QueueResetTest, RegistersAreAsAfterADeviceResetAndWritableAgain) {
  EXPECT_TRUE(core_->ResetQueue(0));
  const QueueRegisters registers = core_->queue(0);
  EXPECT_FALSE(registers.enabled);
  EXPECT_EQ(registers.config.size, 64);
  EXPECT_EQ(mem::Raw(registers.config.descriptor_area), 0U);
  EXPECT_EQ(mem::Raw(registers.config.driver_area), 0U);
  EXPECT_EQ(mem::Raw(registers.config.device_area), 0U);
  core_->WriteQueueSize(0, 8);
  EXPECT_EQ(core_->queue(0).config.size, 8);
}

TEST_F(QueueResetTest, EnabledAgainItStartsAtOnceAsANewQueue) {
  driver_.Build().Readable("x").Submit();
  auto& queue = *device_->running[0].queue;
  queue.Push(virtio::testing::MustPop(queue), 0);
  EXPECT_TRUE(core_->ResetQueue(0));
  SetUpQueue(0, larger_.config());
  ASSERT_TRUE(core_->running(0));
  EXPECT_EQ(device_->running[0].resources.config.size, 32);
  EXPECT_EQ(device_->running[0].queue->state().next_used, 0);
  EXPECT_EQ(core_->status(), 15);
}

TEST_F(QueueResetTest, Cve20265747_QueueThatWasEnabledAgainIsFrozenAgain) {
  EXPECT_TRUE(core_->ResetQueue(0));
  SetUpQueue(0, larger_.config());
  const uint64_t refused = core_->refused_writes();
  core_->WriteQueueSize(0, 64);
  core_->WriteQueueAddress(0, TransportCore::Area::kDriver, false, 0x10);
  core_->EnableQueue(0);
  EXPECT_EQ(core_->queue(0).config.size, 32);
  EXPECT_EQ(core_->queue(0).config.driver_area, larger_.config().driver_area);
  EXPECT_EQ(core_->refused_writes(), refused + 3);
}

TEST_F(QueueResetTest, QueuesThatWereNotResetStayFrozen) {
  EXPECT_TRUE(core_->ResetQueue(0));
  core_->WriteQueueSize(1, 64);
  EXPECT_EQ(core_->queue(1).config.size, 16);
}

TEST_F(QueueResetTest, RefusedWhereItIsNotNegotiated) {
  Start(virtio::kVersion1);
  EXPECT_FALSE(core_->ResetQueue(0));
  EXPECT_TRUE(core_->running(0));
}

TEST_F(QueueResetTest, RefusedOutsideItsPhaseAndForQueuesThatDoNotExist) {
  EXPECT_FALSE(core_->ResetQueue(2));
  EXPECT_FALSE(core_->ResetQueue(0xffff));
  EXPECT_FALSE(core_->queue_resetting(0xffff));
  core_->WriteStatus(15 | virtio::kStatusFailed);
  EXPECT_FALSE(core_->ResetQueue(0));
  core_->WriteStatus(0);
  EXPECT_FALSE(core_->ResetQueue(0));
  EXPECT_EQ(device_->calls, (std::vector<std::string>{"stop 0", "stop 1", "reset"}));
}

TEST_F(QueueResetTest, RingOutsideMemoryNeedsResetWhenItIsEnabledAgain) {
  EXPECT_TRUE(core_->ResetQueue(0));
  core_->EnableQueue(0);  // areas at address 0
  EXPECT_EQ(core_->status(), 15 | virtio::kStatusNeedsReset);
  EXPECT_TRUE(core_->running(1));
  EXPECT_EQ(interrupt_->config_signals(), 1U);
}

TEST_F(QueueResetTest, ResetWhilePausedForgetsTheRing) {
  core_->Pause();
  EXPECT_TRUE(core_->ResetQueue(0));
  ASSERT_TRUE(core_->Resume());
  EXPECT_FALSE(core_->running(0));
  EXPECT_TRUE(core_->running(1));
  const TransportState state = core_->Pause();
  EXPECT_TRUE(state.queues[0].reset);
  EXPECT_FALSE(state.queues[1].reset);
}

TEST_F(QueueResetTest, DeviceResetEndsIt) {
  EXPECT_TRUE(core_->ResetQueue(0));
  core_->WriteStatus(0);
  EXPECT_FALSE(core_->queue(0).reset);
  core_->WriteQueueSize(0, 8);
  EXPECT_EQ(core_->queue(0).config.size, 64);
}

// Takes until the test lets it go to stop a queue: requests are in flight.
class DrainingDevice final : public FakeDevice {
 public:
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override {
    if (!entered.try_wait()) {
      entered.count_down();
    }
    leave.wait();
    return FakeDevice::StopQueue(index);
  }

  std::latch entered{1};
  std::latch leave{1};
};

TEST_F(QueueResetTest, ReadsOneWhileTheDeviceDrainsAndZeroAfterwards) {
  auto device = std::make_unique<DrainingDevice>();
  DrainingDevice& draining = *device;
  Make(std::move(device), virtio::kRingReset);
  Start(kResettable);
  std::thread driver([this] { EXPECT_TRUE(core_->ResetQueue(0)); });
  draining.entered.wait();
  EXPECT_TRUE(core_->queue_resetting(0));
  EXPECT_FALSE(core_->queue_resetting(1));
  draining.leave.count_down();
  driver.join();
  EXPECT_FALSE(core_->queue_resetting(0));
  EXPECT_FALSE(core_->queue(0).enabled);
}

// Through registers.
class PciQueueResetTest : public WithMoreRings<testing::PciFixture> {
 protected:
  void Start(uint64_t features) {
    ASSERT_TRUE(guest_.Negotiate(features));
    guest_.SetUpQueue(0, driver_.config(), 1);
    guest_.SetUpQueue(1, second_.config(), 2);
    guest_.DriverOk();
    ASSERT_EQ(guest_.status(), 15);
    device_->calls.clear();
  }
};

TEST_F(PciQueueResetTest, QueueIsDisabledWithoutItsVector) {
  Start(kResettable);
  EXPECT_TRUE(guest_.ResetQueue(0));
  EXPECT_EQ(device_->calls, std::vector<std::string>{"stop 0"});
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueVector), kNoVector);
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueSize), 64);
  EXPECT_EQ(guest_.Get<Le32>(CommonField::kDeviceLow), 0U);
  guest_.Set(CommonField::kQueueSelect, Le16(uint16_t{1}));
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueVector), 2);
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueEnable), 1);
}

TEST_F(PciQueueResetTest, EnabledAgainItHasADoorbellAndAVector) {
  Start(kResettable);
  EXPECT_TRUE(guest_.ResetQueue(0));
  guest_.SetUpQueue(0, larger_.config(), 2);
  EXPECT_EQ(device_->calls, (std::vector<std::string>{"stop 0", "start 0"}));
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueVector), 2);
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueReset), 0);
  EXPECT_TRUE(guest_.Ring(0, Le16(uint16_t{0})));
  uint64_t count = 0;
  EXPECT_EQ(read(device_->running[0].resources.kick.get(), &count, 8), 8);
}

TEST_F(PciQueueResetTest, OnlyOneResets) {
  Start(kResettable);
  guest_.Set(CommonField::kQueueSelect, Le16(uint16_t{0}));
  for (const unsigned value : {0U, 2U, 0xffffU}) {
    guest_.Set(CommonField::kQueueReset, Le16(static_cast<uint16_t>(value)));
    EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueEnable), 1) << value;
  }
  EXPECT_EQ(transport_->ignored_accesses(), 3U);
}

TEST_F(PciQueueResetTest, FieldDoesNothingWhereItIsNotNegotiated) {
  Start(virtio::kVersion1);
  EXPECT_FALSE(guest_.ResetQueue(0));
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueReset), 0);
  EXPECT_TRUE(device_->calls.empty());
  EXPECT_EQ(guest_.Get<Le16>(CommonField::kQueueVector), 1);
}

class MmioQueueResetTest : public WithMoreRings<testing::MmioFixture> {
 protected:
  void Start(uint64_t features) {
    ASSERT_TRUE(guest_.Negotiate(features));
    guest_.SetUpQueue(0, driver_.config());
    guest_.SetUpQueue(1, second_.config());
    guest_.DriverOk();
    ASSERT_EQ(guest_.status(), 15);
    device_->calls.clear();
  }
};

TEST_F(MmioQueueResetTest, QueueIsNotReadyAndStartsAgainWithAnotherRing) {
  Start(kResettable);
  EXPECT_TRUE(guest_.ResetQueue(0));
  EXPECT_EQ(device_->calls, std::vector<std::string>{"stop 0"});
  guest_.SetUpQueue(0, larger_.config());
  EXPECT_EQ(guest_.Get(MmioRegister::kQueueReady), 1U);
  EXPECT_EQ(guest_.Get(MmioRegister::kQueueReset), 0U);
  EXPECT_EQ(device_->calls, (std::vector<std::string>{"stop 0", "start 0"}));
  EXPECT_EQ(device_->running[0].resources.config.size, 32);
  EXPECT_TRUE(guest_.Ring(0));
}

TEST_F(MmioQueueResetTest, OnlyOneResetsAndOnlyWhereItIsNegotiated) {
  Start(kResettable);
  guest_.Set(MmioRegister::kQueueSelect, 0);
  for (const uint32_t value : {0U, 2U, 0x101U, 0xffffffffU}) {
    guest_.Set(MmioRegister::kQueueReset, value);
    EXPECT_EQ(guest_.Get(MmioRegister::kQueueReady), 1U) << value;
  }
  EXPECT_EQ(transport_->ignored_accesses(), 4U);
  Start(virtio::kVersion1);
  EXPECT_FALSE(guest_.ResetQueue(0));
  EXPECT_TRUE(device_->calls.empty());
}

}  // namespace
}  // namespace wyvern::transport
