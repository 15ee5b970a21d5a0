#include "transport/transport_core.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "transport/testing/fixtures.h"
#include "transport/testing/shaped_device.h"

namespace wyvern::transport {
namespace {

using virtio::testing::FakeDevice;

constexpr uint8_t kAck = virtio::kStatusAcknowledge;
constexpr uint8_t kDriver = kAck | virtio::kStatusDriver;
constexpr uint8_t kFeatures = kDriver | virtio::kStatusFeaturesOk;
constexpr uint8_t kOk = kFeatures | virtio::kStatusDriverOk;

class TransportCoreTest : public testing::CoreFixture {
 protected:
  TransportCoreTest() { Make(MakeDevice()); }

  void MakePacked() {
    virtio::DeviceTraits traits = testing::ShapedDevice::Traits();
    traits.features |= virtio::kRingPacked;
    Make(std::make_unique<testing::ShapedDevice>(std::move(traits)));
  }
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
  Negotiate(virtio::kVersion1 | virtio::kAccessPlatform);
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

TEST_F(TransportCoreTest, PackedQueuesHaveAnySizeUpToTheMaximum) {
  // VIRTIO §2.8: no power of two is asked for
  MakePacked();
  Negotiate(virtio::kVersion1 | virtio::kRingPacked);
  ASSERT_EQ(core_->status(), kFeatures);
  for (const uint16_t size : {1, 3, 24, 63, 64}) {
    core_->WriteQueueSize(0, size);
    EXPECT_EQ(core_->queue(0).config.size, size);
  }
  for (const uint16_t size : {0, 65, 128, 0x8000, 0xffff}) {
    core_->WriteQueueSize(0, size);
    EXPECT_EQ(core_->queue(0).config.size, 64);
  }
}

TEST_F(TransportCoreTest, SplitQueuesOfADeviceThatCouldDoPackedArePowersOfTwo) {
  MakePacked();
  Negotiate();
  core_->WriteQueueSize(0, 24);
  EXPECT_EQ(core_->queue(0).config.size, 64);
  EXPECT_EQ(core_->refused_writes(), 1U);
}

TEST_F(TransportCoreTest, VhostUserQueuesHaveTheSizesOfTheirFormat) {
  MakePacked();
  virtio::QueueConfig config = driver_.config();
  config.size = 24;
  EXPECT_EQ(core_->ConfigureQueue(0, config).error().code(), Code::kInvalidArgument);
  ASSERT_TRUE(core_->SetFeatures(virtio::kRingPacked));
  EXPECT_TRUE(core_->ConfigureQueue(0, config));
}

TEST_F(TransportCoreTest, TransportsOwnFeaturesAreOfferedButNotPassedOn) {
  Make(std::make_unique<FakeDevice>(), virtio::kRingReset | virtio::kNotificationData);
  EXPECT_EQ(core_->ReadDeviceFeatures(1) & 0x141U, 0x141U);  // bits 32, 38, 40
  Negotiate(virtio::kVersion1 | virtio::kRingReset | virtio::kNotificationData);
  ASSERT_EQ(core_->status(), kFeatures);
  SetAreas(0, driver_.config());
  core_->EnableQueue(0);
  core_->WriteStatus(kOk);
  EXPECT_EQ(device_->running[0].features, virtio::kVersion1);
}

TEST_F(TransportCoreTest, GenerationGoesUpExactlyWhenAReadShowsAChange) {
  // VIRTIO §2.5.1, §4.1.4.3.1
  const auto read = [&](uint32_t offset) {
    std::byte value{};
    core_->ReadConfig(offset, std::span(&value, 1));
    return value;
  };
  const uint32_t before = core_->config_generation();
  EXPECT_EQ(read(0), std::byte{0});
  device_->config[7] = std::byte{9};
  EXPECT_EQ(core_->config_generation(), before);  // nobody has seen it
  EXPECT_EQ(read(0), std::byte{0});               // another byte than the one that changed
  EXPECT_EQ(core_->config_generation(), before + 1);
  EXPECT_EQ(read(7), std::byte{9});
  EXPECT_EQ(core_->config_generation(), before + 1);
}

TEST_F(TransportCoreTest, GenerationOf8BitsCannotGoRoundBetweenTwoReads) {
  std::byte value{};
  core_->ReadConfig(0, std::span(&value, 1));
  const uint32_t before = core_->config_generation();
  for (int i = 0; i < 256; ++i) {
    device_->config[0] = std::byte{static_cast<uint8_t>(i + 1)};
    interrupt_->SignalConfig();
  }
  device_->config[0] = std::byte{1};
  core_->ReadConfig(0, std::span(&value, 1));
  EXPECT_NE(core_->config_generation() & 0xffU, before & 0xffU);
}

TEST_F(TransportCoreTest, ConfigurationPastItsEndIsZeroWhateverTheDeviceSays) {
  virtio::DeviceTraits traits = testing::ShapedDevice::Traits();
  traits.config_length = 4;  // of the 8 bytes that the device would give
  Make(std::make_unique<testing::ShapedDevice>(std::move(traits)));
  device_->config.assign(8, std::byte{7});
  std::array<std::byte, 8> out{};
  core_->ReadConfig(2, out);
  EXPECT_EQ(out, (std::array{std::byte{7}, std::byte{7}, std::byte{0}, std::byte{0}, std::byte{0},
                             std::byte{0}, std::byte{0}, std::byte{0}}));
  for (const uint32_t offset : {4U, 8U, 0xfffffffcU, 0xffffffffU}) {
    out.fill(std::byte{1});
    core_->ReadConfig(offset, out);
    EXPECT_EQ(out, (std::array<std::byte, 8>{})) << offset;
  }
}

TEST_F(TransportCoreTest, ConfigurationIsReadableBeforeFeaturesOk) {
  // VIRTIO §2.5.2
  device_->config[0] = std::byte{5};
  std::byte value{};
  core_->ReadConfig(0, std::span(&value, 1));
  EXPECT_EQ(value, std::byte{5});
}

TEST_F(TransportCoreTest, DisabledQueueIsStoppedUntilAReset) {
  Negotiate();
  SetAreas(0, driver_.config());
  core_->EnableQueue(0);
  core_->WriteStatus(kOk);
  core_->DisableQueue(0);
  core_->DisableQueue(0);
  core_->DisableQueue(7);
  EXPECT_FALSE(core_->running(0));
  EXPECT_EQ(device_->calls, (std::vector<std::string>{"start 0", "stop 0"}));
  core_->EnableQueue(0);
  EXPECT_FALSE(core_->queue(0).enabled);
}

// Does not stop as it should, and does not start again at once: a back-end that is lost for a while.
class UnwillingDevice final : public FakeDevice {
 public:
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override {
    if (!willing) {
      return Fail(Code::kUnavailable, "the back-end is gone");
    }
    return FakeDevice::StartQueue(index, std::move(resources), features, resume);
  }

  std::optional<virtio::QueueState> StopQueue(uint16_t index) override {
    FakeDevice::StopQueue(index);
    Break();
    return std::nullopt;
  }

  bool willing = true;
};

TEST_F(TransportCoreTest, Firecracker5818_ReinitialisationAfterAResetThatFailedInTheDevice) {
  auto device = std::make_unique<UnwillingDevice>();
  UnwillingDevice& unwilling = *device;
  Make(std::move(device));
  const auto start = [&] {
    Negotiate();
    SetAreas(0, driver_.config());
    core_->EnableQueue(0);
    core_->WriteStatus(kOk);
  };
  start();
  EXPECT_TRUE(core_->running(0));
  core_->WriteStatus(0);  // the device reports a fault in the middle of it
  EXPECT_EQ(core_->status(), 0);
  unwilling.willing = false;
  start();
  EXPECT_EQ(core_->status(), kOk | virtio::kStatusNeedsReset);
  EXPECT_FALSE(core_->running(0));
  core_->WriteStatus(0);
  EXPECT_EQ(core_->status(), 0);
  unwilling.willing = true;
  start();
  EXPECT_EQ(core_->status(), kOk);
  EXPECT_TRUE(core_->running(0));
}

TEST_F(TransportCoreTest, Firecracker5818_SetUpSurvivesNeitherResetNorRenegotiation) {
  Negotiate();
  SetAreas(0, driver_.config());
  core_->EnableQueue(0);
  core_->WriteStatus(0);
  Negotiate();
  core_->WriteStatus(kOk);
  EXPECT_TRUE(device_->running.empty());
  EXPECT_EQ(core_->status(), kOk);
}

TEST_F(TransportCoreTest, Crosvm83ff1c996_SizeThatChangesBesideTheEnableIsJudgedBeforeItStarts) {
  // A second vCPU writes sizes, good and bad, while the first enables the queue and starts it.
  for (int round = 0; round < 50; ++round) {
    Negotiate();
    SetAreas(0, driver_.config());
    std::atomic<bool> stop = false;
    std::thread second([&] {
      while (!stop) {
        for (const uint16_t size : {8, 0, 16, 0xffff, 4, 3}) {
          core_->WriteQueueSize(0, size);
        }
      }
    });
    core_->EnableQueue(0);
    core_->WriteStatus(kOk);
    stop = true;
    second.join();
    ASSERT_TRUE(core_->running(0));
    const uint16_t size = device_->running[0].resources.config.size;
    EXPECT_EQ(size, device_->running[0].queue->size());
    EXPECT_EQ(size, core_->queue(0).config.size);
    EXPECT_TRUE(size == 4 || size == 8 || size == 16) << size;
    core_->WriteStatus(0);
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
  uint8_t status_at_reset = 0;
  core_->set_reset_callback([&] {
    ++resets;
    status_at_reset = core_->status();
  });
  core_->WriteStatus(0);
  EXPECT_EQ(device_->calls, (std::vector<std::string>{"start 0", "stop 0", "reset"}));
  EXPECT_EQ(core_->status(), 0);
  EXPECT_EQ(resets, 1);
  EXPECT_EQ(status_at_reset, kOk);  // 0 comes last: it tells that all is done (VIRTIO §2.4.1)
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

mem::RegionSpec PluggedChunk() {
  mem::RegionSpec spec;
  spec.start = mem::Gpa{uint64_t{1} << 32U};
  spec.size = 1 << 16;
  return spec;
}

TEST_F(TransportCoreTest, AddedMemoryReachesQueuesThatRunWithoutAStop) {
  ASSERT_TRUE(core_->ConfigureQueue(0, driver_.config()));
  ASSERT_TRUE(core_->StartQueue(0, std::nullopt));
  const auto larger = *ram_.memory()->WithRegion(PluggedChunk());
  ASSERT_TRUE(core_->GrowMemory(larger));
  driver_.Build().WritableAt(PluggedChunk().start, 16).Submit();
  virtio::Queue& queue = *device_->running.at(0).queue;
  virtio::Chain chain = virtio::testing::MustPop(queue);
  const std::byte value{7};
  EXPECT_TRUE(chain.Write(0, std::span(&value, 1)));
  queue.Push(std::move(chain), 1);
  EXPECT_EQ(larger->Read<uint8_t>(PluggedChunk().start).value_or(0), 7);
  EXPECT_EQ(device_->calls, (std::vector<std::string>{"start 0"}));
}

TEST_F(TransportCoreTest, ChangedMemoryStopsQueuesThatRunAndLeavesThosePaused) {
  driver_.StartAt(5);
  ASSERT_TRUE(core_->ConfigureQueue(0, driver_.config()));
  ASSERT_TRUE(core_->ConfigureQueue(1, driver_.config()));
  ASSERT_TRUE(core_->StartQueue(0, virtio::QueueState{5, 5}));
  const auto larger = *ram_.memory()->WithRegion(PluggedChunk());
  ASSERT_TRUE(core_->ChangeMemory(larger));
  EXPECT_EQ(device_->calls, (std::vector<std::string>{"start 0", "stop 0", "start 0"}));
  EXPECT_EQ(device_->running.at(0).resources.memory, larger);
  EXPECT_EQ(device_->running.at(0).queue->state().next_available, 5);
  // Whoever has paused it believes it stopped.
  core_->Pause();
  device_->calls.clear();
  ASSERT_TRUE(core_->ChangeMemory(ram_.memory()));
  EXPECT_TRUE(device_->calls.empty());
  ASSERT_TRUE(core_->Resume());
  EXPECT_EQ(device_->running.at(0).resources.memory, ram_.memory());
}

TEST_F(TransportCoreTest, RingInMemoryThatWentNeedsResetAndTheOthersGoOn) {
  GuestRam with_ring({{mem::Gpa{uint64_t{1} << 32U}, 1 << 20}});
  FakeDriver outside(with_ring, 64);
  Negotiate();
  mem::RegionSpec chunk = PluggedChunk();
  chunk.size = 1 << 20;
  core_->SetMemory(*ram_.memory()->WithRegion(std::move(chunk)));
  SetAreas(0, outside.config());
  SetAreas(1, driver_.config());
  core_->EnableQueue(0);
  core_->EnableQueue(1);
  core_->WriteStatus(kOk);
  ASSERT_TRUE(core_->running(0) && core_->running(1));
  EXPECT_FALSE(core_->ChangeMemory(ram_.memory()));
  EXPECT_NE(core_->status() & virtio::kStatusNeedsReset, 0);
  EXPECT_FALSE(core_->running(0));
  EXPECT_TRUE(core_->running(1));
}

// A stop of the queue waits for what its thread does: it plugs memory (virtio-mem).
class PluggingDevice final : public virtio::testing::FakeDevice {
 public:
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override {
    std::thread([this] { plug(); }).join();
    return FakeDevice::StopQueue(index);
  }

  bool MemoryGrew(const std::shared_ptr<const mem::GuestMemory>& /*memory*/) override {
    return false;
  }

  std::function<void()> plug;
};

TEST_F(TransportCoreTest, DeviceThatPlugsMemoryItselfMayBeStoppedMeanwhile) {
  auto device = std::make_unique<PluggingDevice>();
  auto* plugging = device.get();
  Make(std::move(device));
  const auto larger = *ram_.memory()->WithRegion(PluggedChunk());
  plugging->plug = [&] { core_->SetMemory(larger); };
  ASSERT_TRUE(core_->ConfigureQueue(0, driver_.config()));
  ASSERT_TRUE(core_->StartQueue(0, std::nullopt));
  EXPECT_FALSE(core_->GrowMemory(ram_.memory()));
  core_->StopQueue(0);
  ASSERT_TRUE(core_->StartQueue(0, std::nullopt));
  EXPECT_EQ(device_->running.at(0).resources.memory, larger);
  plugging->plug = [] {};
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
