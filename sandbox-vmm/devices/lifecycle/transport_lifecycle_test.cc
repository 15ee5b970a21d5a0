// What every device must do under every transport and with every ring format: each test runs over
// each combination, with the guest's part played in full (registers, doorbells, interrupts, messages).
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "base/check.h"
#include "gone/gone_device.h"
#include "lifecycle/device_kinds.h"
#include "testing/device_rig.h"

namespace wyvern::devices {
namespace {

using testing::DeviceRig;
using testing::RingKind;
using testing::TransportKind;
using virtio::testing::GuestRam;
using virtio::testing::kNext;
using virtio::testing::kWrite;

using Case = std::tuple<Kind, TransportKind, RingKind>;

class TransportLifecycleTest : public ::testing::TestWithParam<Case> {
 protected:
  TransportLifecycleTest()
      : made_(kind().make()),
        rig_(std::move(made_.device), {.transport = std::get<1>(GetParam()),
                                       .ring = std::get<2>(GetParam()),
                                       .frontend = made_.frontend}) {}

  static const Kind& kind() { return std::get<0>(GetParam()); }

  static bool packed() { return std::get<2>(GetParam()) == RingKind::kPacked; }

  // A request goes out by a notification, and comes back with an interrupt.
  void ExpectAnswer() { ExpectAnswer(kind().request); }

  void ExpectAnswer(const KindRequest& request, const std::function<void()>& meanwhile = nullptr) {
    const uint64_t mark = rig_.ram().Mark();
    const uint16_t head = request.submit(rig_.queue(request.queue));
    rig_.Kick(request.queue);
    if (meanwhile) {
      meanwhile();
    }
    const virtio::testing::Used used = rig_.WaitInterrupted(request.queue);
    EXPECT_EQ(used.head, head);
    EXPECT_EQ(used.written, request.written);
    rig_.ram().Release(mark);
  }

  void ExpectReceived() { ExpectAnswer(kind().received, made_.from_host); }

  // Chains of no meaning in particular, as many as there is room for.
  void FillQueue(uint16_t queue) {
    while (rig_.queue(queue).free_descriptors() >= 2) {
      rig_.queue(queue).Build().Readable("0123456789abcdef").Writable(64).Submit();
    }
    rig_.KickAlways(queue);
  }

  void KickAll() {
    for (uint16_t queue = 0; queue < rig_.queue_count(); ++queue) {
      rig_.KickAlways(queue);
    }
  }

  MadeDevice made_;
  DeviceRig rig_;
};

// Of the devices to which the host sends something of its own accord.
class ReceivingLifecycleTest : public TransportLifecycleTest {};

TEST_P(TransportLifecycleTest, RequestComesBackWithAnInterrupt) {
  rig_.Start();
  ExpectAnswer();
  ExpectAnswer();
  EXPECT_EQ(rig_.Status(), 15);
}

TEST_P(TransportLifecycleTest, SessionIsAnsweredAnewAfterEachReset) {
  for (int life = 0; life < 3; ++life) {
    const uint64_t mark = rig_.ram().Mark();
    rig_.Start();
    for (const KindRequest& request : kind().session) {
      ExpectAnswer(request);
    }
    ExpectAnswer();
    rig_.Reset();
    rig_.ram().Release(mark);
  }
}

TEST_P(ReceivingLifecycleTest, WhatTheHostSendsComesWithAnInterrupt) {
  const uint16_t size = packed() ? 12 : 16;
  rig_.Start(0, size);
  for (int i = 0; i < 5 * size + 1; ++i) {
    ExpectReceived();
  }
  EXPECT_EQ(rig_.Status(), 15);
}

TEST_P(ReceivingLifecycleTest, WhatTheHostSendsComesAfterAPauseAQueueResetAndAReset) {
  rig_.Start();
  ExpectReceived();
  rig_.core().Pause();
  ASSERT_TRUE(rig_.core().Resume());
  ExpectReceived();
  rig_.ResetQueue(kind().received.queue);
  rig_.SetUpAgain(kind().received.queue, 32);
  ExpectReceived();
  rig_.Reset();
  rig_.Start();
  ExpectReceived();
}

TEST_P(TransportLifecycleTest, RequestsGoRoundTheRingManyTimes) {
  const uint16_t size = packed() ? 12 : 16;  // packed sizes need be no power of two
  rig_.Start(0, size);
  for (int i = 0; i < 5 * size + 1; ++i) {
    ExpectAnswer();
  }
}

TEST_P(TransportLifecycleTest, StartsAndStopsWithEveryFeatureSet) {
  constexpr std::array<uint64_t, 3> kBits = {virtio::kRingEventIdx, virtio::kRingIndirectDesc,
                                             virtio::kInOrder};
  for (size_t set = 0; set < size_t{1} << kBits.size(); ++set) {
    uint64_t refused = 0;
    for (size_t bit = 0; bit < kBits.size(); ++bit) {
      refused |= (set >> bit & 1U) != 0 ? kBits.at(bit) : 0;
    }
    const uint64_t mark = rig_.ram().Mark();
    rig_.Start(refused);
    ExpectAnswer();
    rig_.Reset();
    EXPECT_EQ(rig_.Status(), 0);
    rig_.ram().Release(mark);
  }
}

TEST_P(TransportLifecycleTest, ConfigurationIsTheDevices) {
  auto device = kind().make().device;
  std::vector<std::byte> expected(device->traits().config_length + 8);
  std::vector<std::byte> seen(expected.size());
  device->ReadConfig(0, expected);
  rig_.guest().ReadConfig(0, seen);  // before FEATURES_OK: VIRTIO §2.5.2
  EXPECT_EQ(seen, expected);
}

TEST_P(TransportLifecycleTest, NotifyBeforeDriverOkDoesNoHarm) {
  rig_.Prepare();
  const uint16_t head = kind().request.submit(rig_.queue(kind().request.queue));
  KickAll();
  EXPECT_FALSE(rig_.WaitMaybe(kind().request.queue, std::chrono::milliseconds(5)));
  rig_.DriverOk();
  EXPECT_EQ(rig_.WaitInterrupted(kind().request.queue).head,
            head);  // what was there is taken at the start
  KickAll();
  ExpectAnswer();
}

TEST_P(TransportLifecycleTest, PausedQueuesResumeWhereTheyWere) {
  rig_.Start();
  ExpectAnswer();
  const transport::TransportState before = rig_.core().Pause();
  ASSERT_TRUE(rig_.core().Resume());
  const transport::TransportState after = rig_.core().Pause();
  for (size_t i = 0; i < before.rings.size(); ++i) {
    const std::optional<virtio::QueueState>& was = before.rings[i];
    const std::optional<virtio::QueueState>& is = after.rings[i];
    WV_CHECK(was.has_value() && is.has_value());
    EXPECT_EQ(was->next_available, is->next_available);
    EXPECT_EQ(was->next_used, is->next_used);
  }
  ASSERT_TRUE(rig_.core().Resume());
  ExpectAnswer();
}

TEST_P(TransportLifecycleTest, RequestMadeWhilePausedIsServedOnResume) {
  rig_.Start();
  ExpectAnswer();
  rig_.core().Pause();
  const uint16_t head = kind().request.submit(rig_.queue(kind().request.queue));
  rig_.Kick(kind().request.queue);
  EXPECT_FALSE(rig_.WaitMaybe(kind().request.queue, std::chrono::milliseconds(5)));
  ASSERT_TRUE(rig_.core().Resume());
  EXPECT_EQ(rig_.WaitInterrupted(kind().request.queue).head, head);
}

TEST_P(TransportLifecycleTest, QueuesAreResetOneByOneAndTheOthersGoOn) {
  // VIRTIO §2.6.1
  rig_.Start();
  for (uint16_t queue = 0; queue < rig_.queue_count(); ++queue) {
    rig_.ResetQueue(queue);
    EXPECT_EQ(rig_.Status(), 15);
    for (uint16_t other = 0; other < rig_.queue_count(); ++other) {
      EXPECT_EQ(rig_.core().running(other), other != queue) << queue;
    }
    if (queue != kind().request.queue) {
      ExpectAnswer();
    }
    rig_.SetUpAgain(queue, 32);
    EXPECT_TRUE(rig_.core().running(queue));
    ExpectAnswer();
  }
}

TEST_P(TransportLifecycleTest, NothingOfAQueueIsExecutedOnceItIsReset) {
  // VIRTIO §2.6.1.1
  rig_.Start();
  for (uint16_t queue = 0; queue < rig_.queue_count(); ++queue) {
    FillQueue(queue);
    ASSERT_TRUE(rig_.guest().ResetQueue(queue));
    const uint16_t used = rig_.queue(queue).UsedIndexInRing();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(rig_.queue(queue).UsedIndexInRing(), used) << queue;
  }
}

TEST_P(TransportLifecycleTest, Ch7e2e7a164_QueueResetUnderLoadDrainsWhatIsInFlight) {
  rig_.Start();
  for (int round = 0; round < 10; ++round) {
    const uint64_t mark = rig_.ram().Mark();
    for (uint16_t queue = 0; queue < rig_.queue_count(); ++queue) {
      FillQueue(queue);
    }
    for (uint16_t queue = 0; queue < rig_.queue_count(); ++queue) {
      rig_.ResetQueue(queue);
      EXPECT_FALSE(rig_.core().running(queue));
    }
    EXPECT_EQ(rig_.Status(), 15);
    // Nothing is written any more: the same memory holds the next rings.
    rig_.ram().Release(mark);
    for (uint16_t queue = 0; queue < rig_.queue_count(); ++queue) {
      rig_.SetUpAgain(queue);
    }
    ExpectAnswer();
  }
}

TEST_P(TransportLifecycleTest, Ch7e2e7a164_ResetUnderLoadDrainsWhatIsInFlight) {
  for (int round = 0; round < 20; ++round) {
    const uint64_t mark = rig_.ram().Mark();
    rig_.Start();
    for (uint16_t queue = 0; queue < rig_.queue_count(); ++queue) {
      FillQueue(queue);
    }
    rig_.Reset();
    rig_.ram().Release(mark);
  }
}

TEST_P(TransportLifecycleTest, HostileRingBreaksTheDeviceUntilAReset) {
  const uint16_t queues = rig_.core().queue_count();
  for (uint16_t first = 0; first < queues; ++first) {
    const uint64_t mark = rig_.ram().Mark();
    rig_.Start();
    // Which queues a device pops from when is its own affair, so the fault is put into all of them.
    for (uint16_t queue = 0; queue < queues; ++queue) {
      rig_.queue(queue).WriteDescriptor(0, {GuestRam::kBase, 16, kWrite | kNext, 0});
      rig_.queue(queue).MakeAvailable(0);
    }
    rig_.KickAlways(first);
    KickAll();
    EXPECT_TRUE(rig_.WaitNeedsReset());
    rig_.Start();
    EXPECT_EQ(rig_.Status(), 15);
    ExpectAnswer();
    rig_.ram().Release(mark);
  }
}

TEST_P(TransportLifecycleTest, AvailableIndexJumpBreaksTheDevice) {
  rig_.Start();
  for (uint16_t queue = 0; queue < rig_.queue_count(); ++queue) {
    rig_.queue(queue).SetAvailableIndex(0x8000);
    rig_.KickAlways(queue);
  }
  EXPECT_TRUE(rig_.WaitNeedsReset());
}

TEST_P(TransportLifecycleTest, EmptyChainsOfEveryShapeComeBack) {
  // Readable only, writable only, one byte each: every queue must survive them, and a reset
  // afterwards must not hang.
  rig_.Start();
  for (uint16_t queue = 0; queue < rig_.queue_count(); ++queue) {
    rig_.queue(queue).Build().Readable("x").Submit();
    rig_.queue(queue).Build().Writable(1).Submit();
    rig_.queue(queue).Build().Readable("x").Writable(1).Submit();
    rig_.queue(queue).Build().Indirect().Readable("x").Writable(1).Submit();
    rig_.KickAlways(queue);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  rig_.Reset();
  EXPECT_EQ(rig_.Status(), 0);
}

std::string CaseName(const ::testing::TestParamInfo<Case>& info) {
  const auto& [kind, transport, ring] = info.param;
  return std::string(kind.name) + "_" + testing::TransportName(transport) +
         (ring == RingKind::kPacked ? "_packed" : "_split");
}

// In flight, not looked at yet, and new: each comes back, from the device or from what is left of it.
TEST_P(TransportLifecycleTest, RequestsToADeviceThatIsTakenAwayComeBack) {
  rig_.Start();
  const KindRequest& request = kind().request;
  std::set<uint16_t> heads{request.submit(rig_.queue(request.queue))};
  rig_.Kick(request.queue);
  heads.insert(request.submit(rig_.queue(request.queue)));
  transport::TransportCore& core = rig_.core();
  std::vector<std::byte> config(core.traits().config_length);
  core.ReadConfig(0, config);
  auto gone = GoneDevice::Create({.name = "gone", .on_thread_start = nullptr}, core.traits(),
                                 std::move(config));
  ASSERT_TRUE(gone) << gone.error().message();
  core.ReplaceDevice(*std::move(gone));
  EXPECT_EQ(heads.erase(rig_.WaitUsed(request.queue).head), 1U);
  EXPECT_EQ(heads.erase(rig_.WaitUsed(request.queue).head), 1U);
  const uint16_t next = request.submit(rig_.queue(request.queue));
  rig_.Kick(request.queue);
  EXPECT_EQ(rig_.WaitInterrupted(request.queue).head, next);
  for (uint16_t queue = 0; queue < rig_.queue_count(); ++queue) {
    FillQueue(queue);
  }
  rig_.Reset();
  rig_.Start();
  const uint16_t anew = request.submit(rig_.queue(request.queue));
  rig_.Kick(request.queue);
  EXPECT_EQ(rig_.WaitInterrupted(request.queue).head, anew);
}

INSTANTIATE_TEST_SUITE_P(
    Devices, TransportLifecycleTest,
    ::testing::Combine(::testing::ValuesIn(Kinds()),
                       ::testing::Values(TransportKind::kCore, TransportKind::kPci,
                                         TransportKind::kMmio, TransportKind::kVhostUser),
                       ::testing::Values(RingKind::kSplit, RingKind::kPacked)),
    CaseName);

std::vector<Kind> ReceivingKinds() {
  std::vector<Kind> kinds = Kinds();
  std::erase_if(kinds, [](const Kind& kind) { return kind.received.submit == nullptr; });
  return kinds;
}

INSTANTIATE_TEST_SUITE_P(
    Devices, ReceivingLifecycleTest,
    ::testing::Combine(::testing::ValuesIn(ReceivingKinds()),
                       ::testing::Values(TransportKind::kCore, TransportKind::kPci,
                                         TransportKind::kMmio, TransportKind::kVhostUser),
                       ::testing::Values(RingKind::kSplit, RingKind::kPacked)),
    CaseName);

}  // namespace
}  // namespace wyvern::devices
