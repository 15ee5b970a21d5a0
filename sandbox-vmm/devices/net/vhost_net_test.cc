// vhost-net as the kernel's side sees it: which calls, in which order, with what. No kernel needed.
#include "net/vhost_net_device.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "net/testing/fake_vhost.h"
#include "net/testing/net_rig.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::devices {
namespace {

using testing::DeviceRig;
using testing::FakeTap;
using testing::FakeVhost;
using testing::kGuestMac;
using testing::kVhostFeatures;
using testing::Raw;
using virtio::testing::FakeDriver;
using virtio::testing::FakeInterrupt;
using virtio::testing::GuestRam;

class VhostNetTest : public ::testing::Test {
 protected:
  void Make(uint16_t pairs = 1, uint64_t offered = kVhostFeatures) {
    auto calls = std::make_unique<FakeVhost>();
    vhost_ = calls.get();
    vhost_->offered = offered;
    auto tap = std::make_unique<FakeTap>(pairs);
    tap_ = tap.get();
    std::vector<UniqueFd> fds;
    for (uint16_t i = 0; i < pairs; ++i) {
      fds.push_back(*MakeMemfd("vhost", 0));
      fds_.push_back(fds.back().get());
    }
    auto device = VhostNetDevice::Create({.worker = {.name = "vhost", .on_thread_start = nullptr},
                                          .tap = std::move(tap),
                                          .vhost = std::move(fds),
                                          .interface = {.mac = kGuestMac},
                                          .calls = std::move(calls)});
    WV_CHECK(device.has_value());
    net_ = device->get();
    rig_ = std::make_unique<DeviceRig>(*std::move(device));
    vhost_->TakeRequests();
  }

  FakeVhost::Ring Ring(uint16_t index) { return vhost_->ring(fds_.at(index / 2), index % 2); }

  uint8_t SetPairs(uint16_t pairs) {
    const auto queue = static_cast<uint16_t>(2 * fds_.size());
    const NetCommand command{.command_class = static_cast<uint8_t>(NetClass::kMq),
                             .command = kNetMqPairsSet};
    const uint16_t head =
        rig_->queue(queue).Build().Readable(Raw(command) + Raw(Le16(pairs))).Writable(1).Submit();
    rig_->Kick(queue);
    rig_->WaitUsed(queue);
    return static_cast<uint8_t>(rig_->queue(queue).Written(head, 1)[0]);
  }

  // Packets that must come back without the kernel's help.
  void SendPackets(uint16_t queue, int count) {
    for (int i = 0; i < count; ++i) {
      rig_->queue(queue).Build().Readable(Raw(NetHeader{}) + testing::Frame(60)).Submit();
      rig_->Kick(queue);
      ASSERT_TRUE(rig_->WaitMaybe(queue, std::chrono::seconds(2))) << "nobody takes what is sent";
    }
  }

  // Aligned like a ring's areas, and one queue's worth of resources.
  virtio::QueueResources Resources(FakeDriver& driver, const EventFd& kick) {
    return {.memory = rig_->ram().memory(),
            .config = driver.config(),
            .kick = kick.fd(),
            .interrupt = std::make_shared<FakeInterrupt>()};
  }

  FakeVhost* vhost_ = nullptr;
  FakeTap* tap_ = nullptr;
  VhostNetDevice* net_ = nullptr;
  std::vector<int> fds_;
  std::unique_ptr<DeviceRig> rig_;
};

TEST_F(VhostNetTest, OffersWhatTheKernelHas) {
  Make();
  const uint64_t all = rig_->core().device().traits().features;
  EXPECT_EQ(all & kNetMrgRxbuf, kNetMrgRxbuf);
  EXPECT_EQ(all & (kNetCtrlRx | kNetCtrlRxExtra), 0U) << "nothing filters";
  EXPECT_EQ(all & kNetGuestOffloads, kNetGuestOffloads);
}

TEST_F(VhostNetTest, WithoutMergeableBuffersThereAreNone) {
  Make(1, virtio::kVersion1 | virtio::kRingIndirectDesc);
  const uint64_t all = rig_->core().device().traits().features;
  EXPECT_EQ(all & (kNetMrgRxbuf | virtio::kRingEventIdx), 0U);
}

TEST_F(VhostNetTest, BackendIsTheLastThingThatIsSet) {
  Make();
  auto kick = EventFd::Create();
  ASSERT_TRUE(kick);
  FakeDriver driver(rig_->ram(), 64);
  ASSERT_TRUE(net_->StartQueue(0, Resources(driver, *kick), kVhostFeatures & ~(uint64_t{3} << 26U),
                               std::nullopt));
  const std::vector<unsigned long> expected = {
      VHOST_SET_FEATURES,   VHOST_SET_MEM_TABLE,  VHOST_SET_VRING_NUM,
      VHOST_SET_VRING_BASE, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_CALL,
      VHOST_SET_VRING_ERR,  VHOST_SET_VRING_KICK, VHOST_NET_SET_BACKEND};
  EXPECT_EQ(vhost_->TakeRequests(), expected);
  EXPECT_EQ(kick->Drain(), 1U) << "what came before the backend is looked for";
  EXPECT_EQ(Ring(0).size, 64U);
  EXPECT_EQ(Ring(0).kick, kick->fd().get());
  EXPECT_EQ(Ring(0).backend, tap_->fd(0).get());
  EXPECT_TRUE(net_->StopQueue(0));
}

TEST_F(VhostNetTest, Cve201914835_DirtyLogIsNeverNegotiated) {
  Make();
  rig_->Start();
  EXPECT_EQ(vhost_->features() & ~(virtio::kVersion1 | virtio::kRingFeatures | kNetMrgRxbuf), 0U);
  EXPECT_NE(vhost_->features() & virtio::kVersion1, 0U);
}

TEST_F(VhostNetTest, RingsAreGivenByTheHostsAddresses) {
  Make();
  rig_->Start();
  const mem::RegionInfo& region = rig_->ram().memory()->regions()[0];
  ASSERT_EQ(vhost_->regions().size(), 1U);
  EXPECT_EQ(vhost_->regions()[0].guest_phys_addr, mem::Raw(region.start));
  EXPECT_EQ(vhost_->regions()[0].memory_size, region.size);
  EXPECT_EQ(vhost_->regions()[0].userspace_addr, region.host_address);
  const virtio::QueueConfig& config = rig_->queue(1).config();
  const auto host = [&](mem::Gpa at) {
    return region.host_address + mem::Raw(at) - mem::Raw(region.start);
  };
  EXPECT_EQ(Ring(1).address.desc_user_addr, host(config.descriptor_area));
  EXPECT_EQ(Ring(1).address.avail_user_addr, host(config.driver_area));
  EXPECT_EQ(Ring(1).address.used_user_addr, host(config.device_area));
}

// Memory that is plugged chunk by chunk, as by virtio-mem: more regions than vhost takes.
class VhostPluggedTest : public VhostNetTest {
 protected:
  static constexpr uint64_t kChunk = 2 << 20;
  static constexpr uint64_t kChunks = 512;

  void SetUp() override {
    Make();
    rig_->Start();
    memory_ = rig_->ram().memory();
  }

  static mem::Gpa At(uint64_t chunk) { return mem::Gpa{(uint64_t{1} << 32U) + chunk * kChunk}; }

  static mem::RegionSpec Chunk(uint64_t chunk, const UniqueFd& file) {
    mem::RegionSpec spec;
    spec.start = At(chunk);
    spec.size = kChunk;
    spec.fd = *file.Duplicate();
    spec.fd_offset = chunk * kChunk;
    return spec;
  }

  void Plug(uint64_t chunk) {
    memory_ = *memory_->WithRegion(Chunk(chunk, file_));
    ASSERT_TRUE(memory_->Write(At(chunk), int64_t(chunk) + 1));
    Use();
  }

  void Use() {
    ASSERT_FALSE(rig_->core().GrowMemory(memory_));
    const auto changed = rig_->core().ChangeMemory(memory_);
    ASSERT_TRUE(changed.has_value()) << changed.error().message();
  }

  UniqueFd file_ = *MakeMemfd("chunks", kChunks* kChunk);
  std::shared_ptr<const mem::GuestMemory> memory_;
};

TEST_F(VhostPluggedTest, EverySecondOfManyChunksFitsAndTheRestIsOutOfReach) {
  for (uint64_t i = 0; i < kChunks; i += 2) {
    ASSERT_NO_FATAL_FAILURE(Plug(i));
    ASSERT_LE(vhost_->regions().size(), VhostMemory::kMaxRegions);
  }
  EXPECT_EQ(vhost_->regions().size(), 2U);
  for (uint64_t i = 0; i + 1 < kChunks; ++i) {
    const std::optional<int64_t> seen = vhost_->Read(At(i));
    ASSERT_EQ(seen.has_value(), i % 2 == 0) << i;
    ASSERT_EQ(seen.value_or(int64_t(i) + 1), int64_t(i) + 1);
  }
  // The rings and the memory of the start are where they were.
  const mem::RegionInfo& first = memory_->regions()[0];
  EXPECT_EQ(vhost_->regions()[0].userspace_addr, first.host_address);
}

TEST_F(VhostPluggedTest, ChunkThatWentIsOutOfReachAndMayComeBack) {
  for (uint64_t i = 0; i < 80; ++i) {
    ASSERT_NO_FATAL_FAILURE(Plug(i));
  }
  for (const uint64_t chunk : {uint64_t{0}, uint64_t{40}, uint64_t{79}}) {
    memory_ = *memory_->WithoutRegion(At(chunk));
    Use();
    EXPECT_EQ(vhost_->Read(At(chunk)), std::nullopt);
    EXPECT_EQ(vhost_->Read(At(20)), 21);
    ASSERT_NO_FATAL_FAILURE(Plug(chunk));
    EXPECT_EQ(vhost_->Read(At(chunk)), int64_t(chunk) + 1);
  }
}

TEST_F(VhostPluggedTest, RegionOfAnotherFileInBetweenKeepsItsPlace) {
  const UniqueFd other = *MakeMemfd("other", kChunks * kChunk);
  memory_ = *memory_->WithRegion(Chunk(41, other));
  ASSERT_TRUE(memory_->Write(At(41), int64_t{-5}));
  for (uint64_t i = 0; i < 160; i += 2) {
    ASSERT_NO_FATAL_FAILURE(Plug(i));
  }
  EXPECT_EQ(vhost_->Read(At(40)), 41);
  EXPECT_EQ(vhost_->Read(At(41)), -5);
  EXPECT_EQ(vhost_->Read(At(42)), 43);
  EXPECT_EQ(vhost_->regions().size(), 4U);
}

TEST_F(VhostPluggedTest, FilesOfTheirOwnStillAreTooMany) {
  for (uint64_t i = 0; i < VhostMemory::kMaxRegions; ++i) {
    memory_ = *memory_->WithRegion(Chunk(i, *MakeMemfd("own", kChunks * kChunk)));
  }
  EXPECT_EQ(rig_->core().ChangeMemory(memory_).error().code(), Code::kResourceExhausted);
}

TEST_F(VhostNetTest, RingAcrossTheEndOfMemoryIsRefused) {
  Make();
  auto kick = EventFd::Create();
  ASSERT_TRUE(kick);
  FakeDriver driver(rig_->ram(), 64);
  const uint64_t end = GuestRam::kBase + DeviceRig::kRamSize;
  for (const uint64_t at : {end - 16, end, uint64_t{0}, ~uint64_t{0} - 15}) {
    virtio::QueueResources resources = Resources(driver, *kick);
    resources.config.descriptor_area = mem::Gpa{at};
    EXPECT_FALSE(net_->StartQueue(0, std::move(resources), virtio::kVersion1, std::nullopt));
    EXPECT_FALSE(net_->StopQueue(0));
  }
  EXPECT_FALSE(vhost_->AnyAttached());
}

TEST_F(VhostNetTest, StopDetachesFirstAndTellsWhereTheRingIs) {
  Make();
  rig_->Start();
  vhost_->SetBase(fds_[0], 1, 7);
  rig_->queue(1).StartAt(5);  // the used index in memory
  vhost_->TakeRequests();
  const auto state = rig_->core().device().StopQueue(1);
  WV_CHECK(state.has_value());
  EXPECT_EQ(state->next_available, 7);
  EXPECT_EQ(state->next_used, 5);
  const std::vector<unsigned long> expected = {VHOST_NET_SET_BACKEND, VHOST_GET_VRING_BASE,
                                               VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL,
                                               VHOST_SET_VRING_ERR};
  EXPECT_EQ(vhost_->TakeRequests(), expected);
  EXPECT_EQ(Ring(1).backend, -1);
  EXPECT_EQ(Ring(1).kick, -1);
  EXPECT_NE(Ring(0).backend, -1) << "the other ring goes on";
}

TEST_F(VhostNetTest, PauseAndResumeGoOnWhereTheRingWas) {
  Make();
  rig_->Start();
  vhost_->SetBase(fds_[0], 0, 9);
  (void)rig_->core().Pause();
  EXPECT_FALSE(vhost_->AnyAttached());
  vhost_->SetBase(fds_[0], 0, 0);
  ASSERT_TRUE(rig_->core().Resume());
  EXPECT_EQ(Ring(0).base, 9U);
  EXPECT_NE(Ring(0).backend, -1);
}

TEST_F(VhostNetTest, EveryRefusalOfTheKernelIsAnErrorThatLeavesNothing) {
  Make();
  for (const unsigned long request :
       {VHOST_SET_FEATURES, VHOST_SET_MEM_TABLE, VHOST_SET_VRING_NUM, VHOST_SET_VRING_BASE,
        VHOST_SET_VRING_ADDR, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR, VHOST_SET_VRING_KICK,
        VHOST_NET_SET_BACKEND}) {
    auto kick = EventFd::Create();
    ASSERT_TRUE(kick);
    FakeDriver driver(rig_->ram(), 64);
    vhost_->FailAt(request);
    EXPECT_FALSE(net_->StartQueue(0, Resources(driver, *kick), virtio::kVersion1, std::nullopt));
    EXPECT_FALSE(net_->StopQueue(0));
    EXPECT_FALSE(vhost_->AnyAttached());
    vhost_->FailAt(0);
  }
  rig_->Start();
  EXPECT_TRUE(vhost_->AnyAttached());
}

TEST_F(VhostNetTest, OnlyPairsInUseAreAttached) {
  Make(3);
  rig_->Start();
  EXPECT_NE(Ring(1).backend, -1);
  EXPECT_EQ(Ring(2).backend, -1);
  EXPECT_EQ(SetPairs(2), 0);
  EXPECT_EQ(Ring(2).backend, tap_->fd(1).get());
  EXPECT_EQ(Ring(3).backend, tap_->fd(1).get());
  EXPECT_EQ(Ring(4).backend, -1);
  EXPECT_TRUE(tap_->active(1));
  EXPECT_FALSE(tap_->active(2));
  tap_->RefuseChanges(true);
  EXPECT_EQ(SetPairs(3), 1);
  EXPECT_EQ(Ring(4).backend, -1);
  tap_->RefuseChanges(false);
  EXPECT_EQ(SetPairs(1), 0);
  EXPECT_EQ(Ring(2).backend, -1);
  EXPECT_FALSE(tap_->active(1));
}

TEST_F(VhostNetTest, LinkDownDetachesEveryRing) {
  Make(2);
  rig_->Start();
  net_->SetLinkUp(false);
  EXPECT_FALSE(vhost_->AnyAttached());
  EXPECT_FALSE(tap_->carrier());
  EXPECT_EQ(rig_->Config<Le16>(6).value(), 0);
  EXPECT_EQ(rig_->interrupt().config_signals(), 1U);
  net_->SetLinkUp(true);
  EXPECT_NE(Ring(0).backend, -1);
  EXPECT_NE(Ring(1).backend, -1);
  EXPECT_EQ(Ring(2).backend, -1);
}

TEST_F(VhostNetTest, LinkDownTakesWhatIsSentAndDropsItAsNetDeviceDoes) {
  Make();
  rig_->Start();
  net_->SetLinkUp(false);
  SendPackets(1, 3);
  EXPECT_EQ(rig_->counter("tx_link_down"), 3U);
  EXPECT_EQ(tap_->waiting(0), 0U);
  // Where it is while nobody but us has the ring survives a pause.
  (void)rig_->core().Pause();
  ASSERT_TRUE(rig_->core().Resume());
  EXPECT_EQ(Ring(1).backend, -1);
  SendPackets(1, 2);
  net_->SetLinkUp(true);
  EXPECT_EQ(Ring(1).base, 5U) << "the kernel goes on where we were";
  EXPECT_EQ(Ring(1).backend, tap_->fd(0).get());
  EXPECT_EQ(rig_->counter("faults"), 0U);
}

TEST_F(VhostNetTest, WhatCameToTheTapWhileTheLinkWasDownIsDropped) {
  Make();
  rig_->Start();
  net_->SetLinkUp(false);
  const std::string packet = Raw(NetHeader{}) + testing::Frame(1514);
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(write(tap_->host(0).get(), packet.data(), packet.size()),
              static_cast<ssize_t>(packet.size()));
  }
  net_->SetLinkUp(true);
  EXPECT_EQ(rig_->counter("rx_link_down"), 3U);
  EXPECT_EQ(tap_->waiting(0), 0U);
}

TEST_F(VhostNetTest, WhatIsSentOnAPairThatIsNotInUseIsDropped) {
  Make(2);
  rig_->Start();
  SendPackets(3, 2);
  EXPECT_EQ(rig_->counter("tx_inactive"), 2U);
  ASSERT_EQ(SetPairs(2), 0);
  EXPECT_EQ(Ring(3).base, 2U);
  EXPECT_EQ(Ring(3).backend, tap_->fd(1).get());
  vhost_->SetBase(fds_[1], 1, 2);
  ASSERT_EQ(SetPairs(1), 0);
  EXPECT_EQ(Ring(3).backend, -1);
  SendPackets(3, 1);
  EXPECT_EQ(rig_->counter("tx_inactive"), 3U);
}

TEST_F(VhostNetTest, RingThatTheKernelDoesNotTakeBackNeedsResetAndKeepsItsPlace) {
  Make();
  rig_->Start();
  net_->SetLinkUp(false);
  SendPackets(1, 3);
  vhost_->FailAt(VHOST_SET_VRING_KICK);
  net_->SetLinkUp(true);
  vhost_->FailAt(0);
  EXPECT_TRUE(rig_->WaitNeedsReset());
  const auto state = rig_->core().device().StopQueue(1);
  WV_CHECK(state.has_value());
  EXPECT_EQ(state->next_available, 3);
  EXPECT_EQ(state->next_used, 3);
}

TEST_F(VhostNetTest, InterruptsPassThroughHereWhereTheTransportHasNoEventfd) {
  Make();
  rig_->Start();
  const uint64_t seen = rig_->interrupt().queue_signals(1);
  const uint64_t one = 1;
  ASSERT_EQ(write(Ring(1).call, &one, sizeof(one)), 8);
  EXPECT_TRUE(rig_->interrupt().WaitQueue(1, seen));
}

TEST_F(VhostNetTest, RingThatTheKernelFindsBrokenNeedsReset) {
  Make();
  rig_->Start();
  const uint64_t one = 1;
  ASSERT_EQ(write(Ring(0).error, &one, sizeof(one)), 8);
  EXPECT_TRUE(rig_->WaitNeedsReset());
  EXPECT_EQ(rig_->counter("faults"), 1U);
  rig_->Start();
  EXPECT_EQ(rig_->core().status(), 15);
}

TEST_F(VhostNetTest, ResetDetachesAndForgetsWhatTheDriverHasSet) {
  Make(2);
  rig_->Start();
  ASSERT_EQ(SetPairs(2), 0);
  rig_->core().WriteStatus(0);
  EXPECT_FALSE(vhost_->AnyAttached());
  EXPECT_FALSE(tap_->active(1));
  rig_->Start();
  EXPECT_EQ(Ring(2).backend, -1);
}

TEST(VhostNetCreateTest, DescriptorsAreOnePerPairAndOfAModernKernel) {
  const auto create = [](uint16_t taps, size_t vhosts, uint64_t offered) {
    auto calls = std::make_unique<FakeVhost>();
    calls->offered = offered;
    std::vector<UniqueFd> fds(vhosts);
    auto device = VhostNetDevice::Create({.worker = {.name = "vhost", .on_thread_start = nullptr},
                                          .tap = std::make_unique<FakeTap>(taps),
                                          .vhost = std::move(fds),
                                          .interface = {.mac = kGuestMac},
                                          .calls = std::move(calls)});
    return device ? Code::kOk : device.error().code();
  };
  EXPECT_EQ(create(2, 2, kVhostFeatures), Code::kOk);
  EXPECT_EQ(create(2, 1, kVhostFeatures), Code::kInvalidArgument);
  EXPECT_EQ(create(1, 1, virtio::kRingFeatures), Code::kFailedPrecondition);
}

}  // namespace
}  // namespace wyvern::devices
