#include "transport/transport_core.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <thread>

#include "base/check.h"
#include "virtio/testing/fake_device.h"
#include "virtio/testing/fake_driver.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::transport {
namespace {

using virtio::testing::FakeDevice;
using virtio::testing::FakeDriver;
using virtio::testing::FakeInterrupt;
using virtio::testing::GuestRam;

constexpr uint8_t kAck = virtio::kStatusAcknowledge;
constexpr uint8_t kDriver = kAck | virtio::kStatusDriver;
constexpr uint8_t kFeatures = kDriver | virtio::kStatusFeaturesOk;
constexpr uint8_t kOk = kFeatures | virtio::kStatusDriverOk;

class TransportCoreTest : public ::testing::Test {
 protected:
  TransportCoreTest() {
    auto device = std::make_unique<FakeDevice>();
    device_ = device.get();
    auto kick = EventFd::Create();
    EXPECT_TRUE(kick);
    kick_ = std::make_unique<EventFd>(*std::move(kick));
    core_ = std::make_unique<TransportCore>(std::move(device), ram_.memory(), interrupt_,
                                            [this](uint16_t) { return kick_->fd(); });
  }

  void Negotiate(uint64_t features = virtio::kVersion1) {
    core_->WriteStatus(kAck);
    core_->WriteStatus(kDriver);
    core_->WriteDriverFeatures(0, static_cast<uint32_t>(features));
    core_->WriteDriverFeatures(1, static_cast<uint32_t>(features >> 32U));
    core_->WriteStatus(kFeatures);
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

  GuestRam ram_;
  FakeDriver driver_{ram_, 16};
  std::shared_ptr<FakeInterrupt> interrupt_ = std::make_shared<FakeInterrupt>();
  std::unique_ptr<EventFd> kick_;
  FakeDevice* device_ = nullptr;
  std::unique_ptr<TransportCore> core_;
};

TEST_F(TransportCoreTest, DriverOkStartsTheEnabledQueuesOnly) {
  Negotiate(virtio::kVersion1 | virtio::kRingEventIdx);
  SetAreas(1, driver_.config());
  core_->EnableQueue(1);
  EXPECT_TRUE(device_->calls.empty());
  core_->WriteStatus(kOk);
  EXPECT_EQ(device_->calls, std::vector<std::string>{"start 1"});
  EXPECT_EQ(core_->status(), kOk);
  EXPECT_EQ(device_->running[1].features, virtio::kVersion1 | virtio::kRingEventIdx);
  EXPECT_EQ(device_->running[1].resources.config.size, 16);
  EXPECT_EQ(device_->running[1].resources.kick.get(), kick_->fd().get());
}

TEST_F(TransportCoreTest, FeaturesOkDoesNotStayWithoutVersion1) {
  Negotiate(virtio::kRingEventIdx);
  EXPECT_EQ(core_->status(), kDriver);
  core_->WriteStatus(kOk);
  EXPECT_EQ(core_->status(), kDriver);
  EXPECT_TRUE(device_->calls.empty());
}

TEST_F(TransportCoreTest, FeaturesOkDoesNotStayWithABitThatWasNotOffered) {
  Negotiate(virtio::kVersion1 | virtio::kRingPacked);
  EXPECT_EQ(core_->status(), kDriver);
}

TEST_F(TransportCoreTest, FeaturesAreFrozenByFeaturesOk) {
  Negotiate();
  core_->WriteDriverFeatures(0, 1);
  EXPECT_EQ(core_->ReadDriverFeatures(0), 0U);
  EXPECT_EQ(core_->refused_writes(), 1U);
}

TEST_F(TransportCoreTest, StatusBitsOutOfOrderAreRefused) {
  core_->WriteStatus(virtio::kStatusDriverOk);
  EXPECT_EQ(core_->status(), 0);
  core_->WriteStatus(virtio::kStatusFeaturesOk);
  EXPECT_EQ(core_->status(), 0);
  core_->WriteStatus(kDriver);  // both at once: SeaBIOS does it
  EXPECT_EQ(core_->status(), kDriver);
}

TEST_F(TransportCoreTest, Firecracker5818_ClearedStatusBitsAreRefused) {
  Negotiate();
  core_->WriteStatus(kAck);
  EXPECT_EQ(core_->status(), kFeatures);
  EXPECT_EQ(core_->refused_writes(), 1U);
}

TEST_F(TransportCoreTest, Firecracker5818_QueueSetupOutsideItsPhaseIsRefused) {
  SetAreas(0, driver_.config());
  core_->EnableQueue(0);
  EXPECT_FALSE(core_->queue(0).enabled);
  EXPECT_EQ(core_->queue(0).config.size, 64);
  Negotiate();
  core_->WriteStatus(kOk);
  SetAreas(0, driver_.config());
  core_->EnableQueue(0);
  EXPECT_FALSE(core_->queue(0).enabled);
  EXPECT_TRUE(device_->calls.empty());
}

TEST_F(TransportCoreTest, Firecracker5818_NothingButResetAfterFailed) {
  core_->WriteStatus(kAck);
  core_->WriteStatus(kAck | virtio::kStatusFailed);
  core_->WriteStatus(kDriver | virtio::kStatusFailed);
  EXPECT_EQ(core_->status(), kAck | virtio::kStatusFailed);
  core_->WriteStatus(0);
  Negotiate();
  EXPECT_EQ(core_->status(), kFeatures);
}

TEST_F(TransportCoreTest, Cve20265747_QueueConfigIsFrozenOnceEnabled) {
  Negotiate();
  SetAreas(0, driver_.config());
  core_->EnableQueue(0);
  core_->WriteQueueSize(0, 64);
  core_->WriteQueueAddress(0, TransportCore::Area::kDevice, false, 0x1234);
  EXPECT_EQ(core_->queue(0).config.size, 16);
  EXPECT_EQ(core_->queue(0).config.device_area, driver_.config().device_area);
  core_->WriteStatus(kOk);
  core_->WriteQueueSize(0, 0);
  EXPECT_EQ(core_->queue(0).config.size, 16);
  core_->WriteStatus(0);
  EXPECT_EQ(core_->queue(0).config.size, 64);
  EXPECT_FALSE(core_->queue(0).enabled);
}

TEST_F(TransportCoreTest, ImpossibleQueueSizesAreRefused) {
  Negotiate();
  for (const uint16_t size : {0, 3, 128, 0x8000, 0xffff}) {
    core_->WriteQueueSize(0, size);
    EXPECT_EQ(core_->queue(0).config.size, 64);
  }
}

TEST_F(TransportCoreTest, Ch082fdc4d0_QueueThatDoesNotExistReadsAsZero) {
  Negotiate();
  for (const uint16_t index : {2, 0xffff}) {
    core_->WriteQueueSize(index, 16);
    core_->WriteQueueAddress(index, TransportCore::Area::kDriver, true, 1);
    core_->EnableQueue(index);
    EXPECT_EQ(core_->queue(index).config.size, 0);
    EXPECT_FALSE(core_->queue(index).enabled);
    EXPECT_FALSE(core_->StopQueue(index));
    EXPECT_FALSE(core_->running(index));
  }
}

TEST_F(TransportCoreTest, QueueThatCannotStartNeedsReset) {
  Negotiate();
  core_->EnableQueue(0);  // areas at address 0: outside memory
  core_->WriteStatus(kOk);
  EXPECT_EQ(core_->status(), kOk | virtio::kStatusNeedsReset);
  EXPECT_EQ(interrupt_->config_signals(), 1U);
  core_->WriteStatus(0);
  EXPECT_EQ(core_->status(), 0);
}

TEST_F(TransportCoreTest, BrokenQueueNeedsResetOnceAndTellsTheDriver) {
  Negotiate();
  core_->WriteStatus(kOk);
  device_->Break();
  device_->Break();
  EXPECT_EQ(core_->status(), kOk | virtio::kStatusNeedsReset);
  EXPECT_EQ(interrupt_->config_signals(), 1U);
  core_->WriteStatus(kOk);  // writes back without the bit: it stays
  EXPECT_EQ(core_->status(), kOk | virtio::kStatusNeedsReset);
}

TEST_F(TransportCoreTest, FaultBesideAResetLeavesTheStatusZero) {
  int broken = 0;
  core_->set_broken_callback([&] { ++broken; });
  device_->Break();
  EXPECT_EQ(core_->status(), 0);
  EXPECT_EQ(broken, 1);
  Negotiate();
  core_->WriteStatus(kOk);
  core_->WriteStatus(0);
  device_->Break();  // of what was running before
  EXPECT_EQ(core_->status(), 0);
  EXPECT_EQ(broken, 2);
  EXPECT_EQ(interrupt_->config_signals(), 0U);
}

TEST_F(TransportCoreTest, ResetStopsRunningQueuesBeforeTheDevice) {
  Negotiate();
  SetAreas(0, driver_.config());
  core_->EnableQueue(0);
  core_->WriteStatus(kOk);
  int resets = 0;
  core_->set_reset_callback([&] { ++resets; });
  core_->WriteStatus(0);
  EXPECT_EQ(device_->calls, (std::vector<std::string>{"start 0", "stop 0", "reset"}));
  EXPECT_EQ(core_->status(), 0);
  EXPECT_EQ(resets, 1);
  EXPECT_EQ(core_->ReadDriverFeatures(1), 0U);
}

TEST_F(TransportCoreTest, PauseKeepsRingsAndResumeContinues) {
  Negotiate();
  SetAreas(0, driver_.config());
  core_->EnableQueue(0);
  core_->WriteStatus(kOk);
  driver_.Build().Readable("x").Submit();
  auto& queue = *device_->running[0].queue;
  std::optional<virtio::Chain> chain = *queue.Pop();
  WV_CHECK(chain.has_value());
  queue.Push(*std::move(chain), 0);
  const TransportState state = core_->Pause();
  ASSERT_EQ(state.rings.size(), 2U);
  EXPECT_EQ(state.rings[0].value_or(virtio::QueueState{}).next_available, 1);
  EXPECT_FALSE(state.rings[1]);
  EXPECT_EQ(state.status, kOk);
  EXPECT_FALSE(core_->running(0));
  ASSERT_TRUE(core_->Resume());
  EXPECT_EQ(device_->running[0].queue->state().next_used, 1);
  EXPECT_EQ(device_->calls, (std::vector<std::string>{"start 0", "stop 0", "start 0"}));
}

TEST_F(TransportCoreTest, ResetWhilePausedForgetsTheRings) {
  Negotiate();
  SetAreas(0, driver_.config());
  core_->EnableQueue(0);
  core_->WriteStatus(kOk);
  core_->Pause();
  core_->WriteStatus(0);
  ASSERT_TRUE(core_->Resume());
  EXPECT_TRUE(device_->running.empty());
}

TEST_F(TransportCoreTest, VhostUserDrivesQueuesWithoutStatus) {
  ASSERT_TRUE(core_->SetFeatures(virtio::kRingIndirectDesc));
  ASSERT_TRUE(core_->ConfigureQueue(0, driver_.config()));
  ASSERT_TRUE(core_->StartQueue(0, virtio::QueueState{5, 5}));
  EXPECT_EQ(core_->StartQueue(0, std::nullopt).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(core_->ConfigureQueue(0, driver_.config()).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(core_->SetFeatures(0).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(core_->StopQueue(0).value_or(virtio::QueueState{}).next_available, 5);
  EXPECT_FALSE(core_->StopQueue(0));
  EXPECT_EQ(core_->SetFeatures(uint64_t{1} << 50U).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(core_->ConfigureQueue(9, driver_.config()).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(core_->ConfigureQueue(0, {}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(core_->StartQueue(9, std::nullopt).error().code(), Code::kInvalidArgument);
}

TEST_F(TransportCoreTest, DestroyingTheCoreStopsItsQueues) {
  ASSERT_TRUE(core_->ConfigureQueue(0, driver_.config()));
  ASSERT_TRUE(core_->StartQueue(0, std::nullopt));
  core_.reset();  // under ASan: the fake device's queue must not outlive its stop
}

// Reports a fault from a thread that its destructor waits for.
class FaultyToTheEnd final : public virtio::testing::FakeDevice {
 public:
  FaultyToTheEnd() = default;

  ~FaultyToTheEnd() override {
    std::thread([this] { Break(); }).join();
  }

  FaultyToTheEnd(const FaultyToTheEnd&) = delete;
  FaultyToTheEnd& operator=(const FaultyToTheEnd&) = delete;
};

TEST_F(TransportCoreTest, DeviceMayReportAFaultUntilItIsGone) {
  auto told = std::make_shared<int>(0);
  std::optional<TransportCore> core;
  core.emplace(std::make_unique<FaultyToTheEnd>(), ram_.memory(), interrupt_,
               [this](uint16_t) { return kick_->fd(); });
  core->set_broken_callback([told] { ++*told; });
  core.reset();
  EXPECT_EQ(*told, 1);
}

}  // namespace
}  // namespace wyvern::transport
