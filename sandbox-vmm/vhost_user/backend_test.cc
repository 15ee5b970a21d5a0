// The session, the rings and when they run.
#include "vhost_user/backend.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <array>

#include "vhost_user/testing/backend_rig.h"

namespace wyvern::vhost_user {
namespace {

using std::chrono::milliseconds;

class BackendTest : public testing::BackendRig {};

bool Readable(FdRef fd) {
  pollfd polled{.fd = fd.get(), .events = POLLIN, .revents = 0};
  return ::poll(&polled, 1, 0) == 1;
}

TEST_F(BackendTest, OffersWhatItHas) {
  EXPECT_EQ(Ask<uint64_t>(Request::kGetFeatures),
            virtio::kRingFeatures | virtio::kVersion1 | kFeatureProtocol | kFeatureLogAll);
  // QEMU 7.1 to 8.0 crash on a file system back-end that offers CONFIG.
  EXPECT_EQ(Ask<uint64_t>(Request::kGetProtocolFeatures), kNegotiated);
  EXPECT_EQ(Ask<uint64_t>(Request::kGetQueueNum), 2U);
  Negotiate();
  EXPECT_EQ(Ask<uint64_t>(Request::kGetMaxMemSlots), SharedMemory::kMaxSlots);
}

TEST_F(BackendTest, OffersWhatItWasMadeFor) {
  Make({.offer_config = true,
        .track_inflight = true,
        .offer_status = true,
        .state = NoDeviceState(),
        .set_mtu = [](uint16_t) { return Result<>(); },
        .send_rarp = [](std::array<uint8_t, 6>) { return Result<>(); }},
       virtio::kRingPacked, {{.id = 0, .length = 4096}});
  const uint64_t offered = Ask<uint64_t>(Request::kGetProtocolFeatures);
  EXPECT_EQ(offered, kNegotiated | kProtocolConfig | kProtocolBackendReq | kProtocolInflightShmfd |
                         kProtocolStatus | kProtocolDeviceState | kProtocolMtu | kProtocolRarp |
                         kProtocolShmem | kProtocolBackendSendFd);
  // Means one thing to some and another to others.
  EXPECT_EQ(offered & uint64_t{1} << 21, 0U);
  // What is in flight in a packed ring would not be recorded.
  EXPECT_EQ(Ask<uint64_t>(Request::kGetFeatures) & virtio::kRingPacked, 0U);
}

// As QEMU and DPDK have it: see QueueUnit.
TEST_F(BackendTest, NetworkDeviceCountsPairsAndLeavesTheControlQueueToTheFrontEnd) {
  for (const uint16_t pairs : {1, 2, 3}) {
    UsePairs(pairs);
    Make({});
    EXPECT_EQ(Ask<uint64_t>(Request::kGetQueueNum), pairs);
    EXPECT_EQ(Ask<uint64_t>(Request::kGetFeatures) & kControl, 0U);
    Negotiate();
    EXPECT_FALSE(Done(Request::kSetFeatures, virtio::kVersion1 | kFeatureProtocol | kControl));
    EXPECT_TRUE(Done(Request::kSetVringNum, VringState{2U * pairs - 1, 64}));
    EXPECT_FALSE(Done(Request::kSetVringNum, VringState{2U * pairs, 64})) << "the control queue";
    EXPECT_FALSE(Enable(2U * pairs));
  }
}

TEST_F(BackendTest, RefusesBitsNotOffered) {
  Negotiate();
  EXPECT_FALSE(Done(Request::kSetFeatures, ~uint64_t{0}));
  for (unsigned bit = 0; bit < 64; ++bit) {
    const uint64_t features = kProtocolReplyAck | uint64_t{1} << bit;
    EXPECT_EQ(Done(Request::kSetProtocolFeatures, features), (features & ~kNegotiated) == 0) << bit;
  }
}

TEST_F(BackendTest, RunsWhenKickedAndEnabledInAnyOrder) {
  Negotiate();
  SetOneRegion();
  PrepareRing(0);
  PrepareRing(1);
  EXPECT_TRUE(Kick(0));
  EXPECT_FALSE(state_->running[0]);
  EXPECT_TRUE(Enable(0));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_TRUE(Enable(1));
  EXPECT_FALSE(state_->running[1]);
  EXPECT_TRUE(Kick(1));
  EXPECT_TRUE(state_->running[1]);
  EXPECT_EQ(mem::Raw(state_->resources[1].config.driver_area), kGuest + 0x11000);
}

TEST_F(BackendTest, WithoutProtocolFeaturesRingsAreEnabledAtOnce) {
  const uint64_t features = virtio::kVersion1;
  ASSERT_TRUE(Send(Request::kSetProtocolFeatures, kNegotiated));
  SetOneRegion();
  PrepareRing(0);
  EXPECT_TRUE(Kick(0));
  EXPECT_FALSE(state_->running[0]);
  EXPECT_TRUE(Done(Request::kSetFeatures, features));
  EXPECT_TRUE(state_->running[0]);
}

TEST_F(BackendTest, KickBeforeMemoryAndAddressesIsNoFault) {
  Negotiate();
  EXPECT_TRUE(Kick(0));
  EXPECT_TRUE(Enable(0));
  EXPECT_FALSE(state_->running[0]);
  SetOneRegion();
  PrepareRing(0);
  EXPECT_TRUE(state_->running[0]);
}

TEST_F(BackendTest, DisabledRingKeepsItsPlace) {
  RunRing();
  state_->stopped = {17, 15};
  EXPECT_TRUE(Enable(0, false));
  EXPECT_FALSE(state_->running[0]);
  EXPECT_TRUE(Enable(0));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_available, 17U);
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_used, 15U);
}

TEST_F(BackendTest, RingOfADeviceThatRunsDisabledGoesOn) {
  Make({}, 0, {}, true);
  Negotiate();
  SetOneRegion();
  PrepareRing(0);
  EXPECT_TRUE(Kick(0));
  EXPECT_TRUE(state_->running[0]) << "started, and not enabled yet";
  EXPECT_FALSE(state_->enabled[0]);
  EXPECT_TRUE(Enable(0));
  EXPECT_TRUE(state_->enabled[0]);
  EXPECT_TRUE(Enable(0, false));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_FALSE(state_->enabled[0]);
  (void)Base(0);
  EXPECT_FALSE(state_->running[0]);
  EXPECT_TRUE(Enable(0));
  EXPECT_FALSE(state_->running[0]) << "enabled, and not started";
  EXPECT_TRUE(Kick(0));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_TRUE(state_->enabled[0]);
}

TEST_F(BackendTest, GetVringBaseStopsAndMayBeRepeated) {
  RunRing();
  state_->stopped.next_available = 42;
  EXPECT_EQ(Base(0), 42U);
  EXPECT_FALSE(state_->running[0]);
  EXPECT_EQ(Base(0), 42U);
  EXPECT_EQ(Base(1), 0U);
  // Enabling does not start it; a new kick does, and it goes on there.
  EXPECT_TRUE(Enable(0));
  EXPECT_FALSE(state_->running[0]);
  EXPECT_TRUE(Kick(0));
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_available, 42U);
}

TEST_F(BackendTest, PackedBaseCarriesBothIndicesAndWrapCounters) {
  Make({}, virtio::kRingPacked);
  Negotiate(0, virtio::kRingPacked);
  SetOneRegion();
  EXPECT_EQ(Base(1), 0x80008000U);
  PrepareRing(0, 0x8005'0007);
  EXPECT_TRUE(Enable(0));
  EXPECT_TRUE(Kick(0));
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_available, 7U);
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_used, 0x8005U);
  state_->stopped = {0x8011, 0x10};
  EXPECT_EQ(Base(0), 0x0010'8011U);
  EXPECT_EQ(Base(0), 0x0010'8011U);
  EXPECT_TRUE(Kick(0));
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_available, 0x8011U);
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_used, 0x10U);
}

TEST_F(BackendTest, PackedBaseWithoutItsUsedHalfIsTheBeginning) {
  Make({}, virtio::kRingPacked);
  Negotiate(0, virtio::kRingPacked);
  SetOneRegion();
  PrepareRing(0, 0x8000);
  EXPECT_TRUE(Enable(0));
  EXPECT_TRUE(Kick(0));
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_available, 0x8000U);
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_used, 0x8000U);
}

TEST_F(BackendTest, PollModeIsRefusedUnlessAsked) {
  Negotiate();
  EXPECT_FALSE(Done(Request::kSetVringKick, kNoFd));
}

TEST_F(BackendTest, PolledRingIsKickedByUs) {
  Make({.poll_interval = milliseconds(1)});
  Negotiate();
  SetOneRegion();
  PrepareRing(0);
  EXPECT_TRUE(Enable(0));
  EXPECT_TRUE(Done(Request::kSetVringKick, kNoFd));
  ASSERT_TRUE(state_->running[0]);
  const FdRef kick = state_->resources[0].kick;
  for (int i = 0; i < 2; ++i) {
    pollfd polled{.fd = kick.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&polled, 1, 5000), 1);
    uint64_t count = 0;
    EXPECT_EQ(::read(kick.get(), &count, sizeof(count)), 8);
  }
  EXPECT_EQ(Base(0), 0U);
  EXPECT_TRUE(Kick(0));
  EXPECT_TRUE(state_->running[0]);
}

TEST_F(BackendTest, CallsAndErrorsGoToTheLastDescriptorGiven) {
  RunRing();
  auto first = EventFd::Create();
  auto second = EventFd::Create();
  auto error = EventFd::Create();
  EXPECT_TRUE(Done(Request::kSetVringCall, uint64_t{0}, {first->fd()}));
  EXPECT_TRUE(Done(Request::kSetVringErr, uint64_t{0}, {error->fd()}));
  state_->resources[0].interrupt->SignalQueue(0);
  EXPECT_TRUE(Readable(first->fd()));
  EXPECT_TRUE(Done(Request::kSetVringCall, uint64_t{0}, {second->fd()}));
  state_->resources[0].interrupt->SignalQueue(0);
  EXPECT_TRUE(Readable(second->fd()));
  EXPECT_EQ(first->Drain(), 1U);
  EXPECT_TRUE(Done(Request::kSetVringCall, kNoFd));
  state_->resources[0].interrupt->SignalQueue(0);
  EXPECT_EQ(second->Drain(), 1U);
  EXPECT_FALSE(Readable(error->fd()));
}

TEST_F(BackendTest, RingsOutsideMemoryAreRefused) {
  Negotiate();
  SetOneRegion();
  for (const uint64_t bad : {uint64_t{0}, kUser - 1, kUser + kSize, ~uint64_t{0}}) {
    EXPECT_FALSE(Done(Request::kSetVringAddr, VringAddress{0, 0, kUser, bad, kUser, 0}));
  }
  EXPECT_FALSE(Done(Request::kSetVringAddr, VringAddress{2, 0, kUser, kUser, kUser, 0}));
  EXPECT_FALSE(Done(Request::kSetVringAddr, VringAddress{0, 2, kUser, kUser, kUser, 0}));
}

TEST_F(BackendTest, BadRingNumbersAreRefused) {
  Negotiate();
  EXPECT_FALSE(Done(Request::kSetVringNum, VringState{0, 0}));
  EXPECT_FALSE(Done(Request::kSetVringNum, VringState{0, 512}));
  EXPECT_FALSE(Done(Request::kSetVringNum, VringState{2, 256}));
  EXPECT_FALSE(Done(Request::kSetVringNum, VringState{0xffffffff, 256}));
  EXPECT_FALSE(Done(Request::kSetVringBase, VringState{0, 0x10000}));
  EXPECT_FALSE(Done(Request::kSetVringEnable, VringState{0, 2}));
  EXPECT_FALSE(Kick(2));
  auto kick = EventFd::Create();
  EXPECT_FALSE(Done(Request::kSetVringCall, kNoFd, {kick->fd()}));
  EXPECT_FALSE(Done(Request::kSetVringCall, uint64_t{0}));
  EXPECT_FALSE(Done(Request::kSetVringErr, uint64_t{1} << 9, {kick->fd()}));
}

TEST_F(BackendTest, RunningRingIsFrozen) {
  RunRing();
  EXPECT_FALSE(Done(Request::kSetVringNum, VringState{0, 128}));
  EXPECT_FALSE(Done(Request::kSetVringBase, VringState{0, 1}));
  VringAddress moved = AddressOf(0);
  moved.descriptor += 0x100;
  EXPECT_FALSE(Done(Request::kSetVringAddr, moved));
  EXPECT_FALSE(
      Done(Request::kSetFeatures, virtio::kVersion1 | kFeatureProtocol | virtio::kRingEventIdx));
  EXPECT_TRUE(state_->running[0]);
}

TEST_F(BackendTest, ResetOwnerDisablesAndKeepsTheRest) {
  RunRing();
  EXPECT_TRUE(DoneBytes(Request::kResetOwner, {}));
  EXPECT_FALSE(state_->running[0]);
  EXPECT_EQ(state_->resets, 0);
  EXPECT_TRUE(Enable(0));
  EXPECT_TRUE(state_->running[0]);
}

TEST_F(BackendTest, HeaderOfAnotherVersionEndsTheSession) {
  const Header header{1, 2, 0};
  ASSERT_EQ(::write(peer_->fd().get(), &header, sizeof(header)), 12);
  EXPECT_EQ(backend_->Serve().error(), Fault::kBadVersion);
}

TEST_F(BackendTest, HugePayloadIsNotWaitedFor) {
  const Header header{1, 1, 0xffffffff};
  ASSERT_EQ(::write(peer_->fd().get(), &header, sizeof(header)), 12);
  EXPECT_EQ(backend_->Serve().error(), Fault::kPayloadSize);
}

TEST_F(BackendTest, StalledMessageTimesOut) {
  const Header header{2, 1, 8};
  ASSERT_EQ(::write(peer_->fd().get(), &header, sizeof(header)), 12);
  EXPECT_EQ(backend_->Serve().error(), Fault::kTimeout);
}

TEST_F(BackendTest, HangUpIsTheOrderlyEnd) {
  peer_.reset();
  EXPECT_EQ(backend_->Serve().error(), Fault::kClosed);
}

}  // namespace
}  // namespace wyvern::vhost_user
