// Devices taken away under a driver with requests in flight, kind by kind.
#include "gone/gone_device.h"

#include <chrono>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "testing/device_rig.h"
#include "virtio/feature_bits.h"
#include "virtio/testing/fake_device.h"

namespace wyvern::devices {
namespace {

using std::chrono::milliseconds;
using testing::DeviceRig;
using testing::RigOptions;
using testing::RingKind;

constexpr milliseconds kQuiet{30};

// Takes requests and answers none: what is in flight when it goes.
class SilentDevice final : public virtio::testing::FakeDevice {
 public:
  SilentDevice(uint16_t id, uint16_t queues, uint64_t features) {
    shape_ = FakeDevice::traits();
    shape_.device_id = id;
    shape_.queue_sizes.assign(queues, 64);
    shape_.features = virtio::kRingFeatures | virtio::kRingPacked | features;
  }

  const virtio::DeviceTraits& traits() const override { return shape_; }

 private:
  virtio::DeviceTraits shape_;
};

class GoneDeviceTest : public ::testing::TestWithParam<RingKind> {
 protected:
  void Make(uint16_t id, uint16_t queues = 1, uint64_t features = 0) {
    auto device = std::make_unique<SilentDevice>(id, queues, features);
    device->config[6] = std::byte{1};
    rig_ = std::make_unique<DeviceRig>(std::move(device), RigOptions{.ring = GetParam()});
    rig_->Start();
  }

  void TakeAway() {
    auto& core = rig_->core();
    std::vector<std::byte> config(core.traits().config_length);
    core.ReadConfig(0, config);
    auto gone = GoneDevice::Create({.name = "gone", .on_thread_start = nullptr}, core.traits(),
                                   std::move(config));
    ASSERT_TRUE(gone) << gone.error().message();
    core.ReplaceDevice(*std::move(gone));
  }

  uint16_t Submit(uint16_t queue, std::string_view readable, uint32_t writable) {
    auto chain = rig_->queue(queue).Build();
    if (!readable.empty()) {
      chain.Readable(readable);
    }
    if (writable != 0) {
      chain.Writable(writable);
    }
    return chain.Submit();
  }

  // What comes back of it, as text.
  std::string Answer(uint16_t queue, uint16_t head, uint32_t length) {
    rig_->Kick(queue);
    EXPECT_EQ(rig_->WaitUsed(queue).head, head);
    return rig_->queue(queue).Written(head, length);
  }

  bool Stays(uint16_t queue) {
    rig_->Kick(queue);
    return !rig_->WaitMaybe(queue, kQuiet).has_value();
  }

  std::unique_ptr<DeviceRig> rig_;
};

TEST_P(GoneDeviceTest, BlkAnswersWhatWasInFlightAndWhatFollowsWithAnIoError) {
  Make(virtio::kDeviceBlock, 2);
  const uint16_t before = Submit(1, std::string(16, '\0'), 513);
  rig_->KickAlways(1);
  TakeAway();
  EXPECT_EQ(Answer(1, before, 513)[512], '\1');
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(Answer(0, Submit(0, std::string(528, 'w'), 1), 1), "\1");
  }
  EXPECT_EQ(Answer(0, Submit(0, "no room for a status", 0), 0), "");
}

TEST_P(GoneDeviceTest, FsSaysEioForThatRequestAndNothingForAForget) {
  Make(virtio::kDeviceFs, 2);
  TakeAway();
  std::string request(40, '\0');
  request[8] = 'U';
  const std::string answer = Answer(1, Submit(1, request, 80), 16);
  EXPECT_EQ(answer, std::string("\x10\0\0\0\xfb\xff\xff\xffU\0\0\0\0\0\0\0", 16));
  EXPECT_EQ(Answer(0, Submit(0, request, 0), 0), "");
  EXPECT_EQ(Answer(1, Submit(1, "short", 80), 4), std::string(4, '\0'));
}

TEST_P(GoneDeviceTest, NetHasNoLinkDropsPacketsAndRefusesCommands) {
  Make(virtio::kDeviceNet, 3);
  EXPECT_EQ(rig_->Config<Le16>(6), 1);
  TakeAway();
  EXPECT_EQ(rig_->Config<Le16>(6), 0);
  Submit(0, "", 1600);
  EXPECT_TRUE(Stays(0));
  EXPECT_EQ(Answer(1, Submit(1, std::string(60, 'p'), 0), 0), "");
  EXPECT_EQ(Answer(2, Submit(2, "cmd", 1), 1), "\1");
}

TEST_P(GoneDeviceTest, VsockTellsOfTheResetOnceAndDropsPackets) {
  Make(virtio::kDeviceVsock, 3);
  Submit(0, "", 4096);
  const uint16_t event = Submit(2, "", 8);
  TakeAway();
  EXPECT_EQ(rig_->WaitUsed(2).head, event);
  EXPECT_EQ(rig_->queue(2).Written(event, 4), std::string(4, '\0'));
  Submit(2, "", 8);
  EXPECT_TRUE(Stays(2));
  EXPECT_TRUE(Stays(0));
  EXPECT_EQ(Answer(1, Submit(1, std::string(44, 'p'), 0), 0), "");
}

TEST_P(GoneDeviceTest, PmemMemAndRngFail) {
  Make(virtio::kDevicePmem);
  TakeAway();
  EXPECT_EQ(Answer(0, Submit(0, std::string(4, '\0'), 4), 4), "\xff\xff\xff\xff");
  Make(virtio::kDeviceMem);
  TakeAway();
  EXPECT_EQ(Answer(0, Submit(0, std::string(24, '\0'), 10), 2), std::string("\3\0", 2));
  Make(virtio::kDeviceEntropy);
  TakeAway();
  Submit(0, "", 64);
  rig_->Kick(0);
  EXPECT_EQ(rig_->WaitUsed(0).written, 0U);
}

TEST_P(GoneDeviceTest, BalloonGivesPagesBackAndKeepsTheStatistics) {
  Make(virtio::kDeviceBalloon, 3, 2);
  TakeAway();
  EXPECT_EQ(Answer(0, Submit(0, "1234", 0), 0), "");
  EXPECT_EQ(Answer(1, Submit(1, "1234", 0), 0), "");
  Submit(2, "statistics", 0);
  EXPECT_TRUE(Stays(2));
}

TEST_P(GoneDeviceTest, DriverResetsAndBeginsAnew) {
  Make(virtio::kDeviceBlock);
  TakeAway();
  rig_->Reset();
  rig_->Start();
  EXPECT_EQ(Answer(0, Submit(0, std::string(16, '\0'), 1), 1), "\1");
  (void)rig_->core().Pause();
  const uint16_t head = Submit(0, std::string(16, '\0'), 1);
  ASSERT_TRUE(rig_->core().Resume());
  EXPECT_EQ(Answer(0, head, 1), "\1");
}

TEST_P(GoneDeviceTest, RingThatIsNoneBreaksIt) {
  Make(virtio::kDeviceBlock);
  TakeAway();
  rig_->queue(0).SetAvailableIndex(1000);
  rig_->KickAlways(0);
  EXPECT_TRUE(rig_->WaitNeedsReset());
}

TEST_P(GoneDeviceTest, DeviceThatNobodyDrivesIsReplacedToo) {
  auto device = std::make_unique<SilentDevice>(virtio::kDeviceBlock, 1, 0);
  rig_ = std::make_unique<DeviceRig>(std::move(device), RigOptions{.ring = GetParam()});
  TakeAway();
  rig_->Start();
  EXPECT_EQ(Answer(0, Submit(0, std::string(16, '\0'), 1), 1), "\1");
}

INSTANTIATE_TEST_SUITE_P(Rings, GoneDeviceTest,
                         ::testing::Values(RingKind::kSplit, RingKind::kPacked),
                         [](const auto& param) {
                           return param.param == RingKind::kSplit ? "Split" : "Packed";
                         });

}  // namespace
}  // namespace wyvern::devices
