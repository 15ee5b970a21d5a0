// What an honest driver and an honest host see. Commands: net_control_test.cc. Hostile drivers:
// net_hostile_test.cc.
#include "net/net_device.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "base/check.h"
#include "net/testing/net_rig.h"

namespace wyvern::devices {
namespace {

using std::chrono::milliseconds;
using testing::FakeTap;
using testing::Frame;
using testing::kGuestMac;
using testing::NetRig;
using testing::Raw;
using testing::TsoHeader;
using RealClock = std::chrono::steady_clock;

constexpr uint32_t kBuffer = 1526;  // what Linux gives at least

TEST(NetDeviceTest, ConfigurationTellsTheInterface) {
  NetRig rig({.pairs = 4, .mtu = 1400});
  EXPECT_EQ(rig.device().Config<MacAddress>(0), kGuestMac);
  EXPECT_EQ(rig.device().Config<Le16>(6).value(), kNetLinkUp);
  EXPECT_EQ(rig.device().Config<Le16>(8).value(), 4);
  EXPECT_EQ(rig.device().Config<Le16>(10).value(), 1400);
  EXPECT_EQ(rig.device().Config<Le32>(12).value(), kNetSpeedUnknown);
  EXPECT_EQ(rig.device().Config<uint8_t>(16), kNetDuplexUnknown);
  EXPECT_EQ(rig.device().Config<uint8_t>(17), 0);
  const uint64_t features = rig.net().traits().features;
  EXPECT_EQ(features & (kNetMq | kNetMtu), kNetMq | kNetMtu);
  EXPECT_EQ(features & (kNetHashReport | kNetRss | kNetSpeedDuplex), 0U);
}

TEST(NetDeviceTest, FeaturesFollowTheTap) {
  EXPECT_EQ(NetRig({.offloads = 0}).net().traits().features & (kNetCsum | kNetGuestOffloads), 0U);
  const uint64_t all = NetRig().net().traits().features;
  EXPECT_EQ(all & kNetGuestOffloads, kNetGuestOffloads);
  EXPECT_EQ(all & (kNetMq | kNetMtu), 0U);
}

TEST(NetDeviceTest, PacketOfTheGuestReachesTheTap) {
  NetRig rig;
  rig.Start();
  const std::string frame = Frame(60);
  rig.Transmit(frame);
  const auto packet = rig.HostReceive();
  EXPECT_EQ(packet.bytes, frame);
  EXPECT_EQ(Raw(packet.header), Raw(NetHeader{}));
  EXPECT_EQ(rig.device().WaitUsed(1).written, 0U);
  EXPECT_EQ(rig.counter("tx_packets"), 1U);
  EXPECT_EQ(rig.counter("tx_bytes"), 60U);
}

TEST(NetDeviceTest, SegmentsOfTheGuestReachTheTapWithTheirHeader) {
  NetRig rig;
  rig.Start();
  const std::string frame = Frame(60000);
  rig.Transmit(frame, TsoHeader());
  const auto packet = rig.HostReceive();
  EXPECT_EQ(packet.bytes, frame);
  EXPECT_EQ(Raw(packet.header), Raw(TsoHeader()));
}

TEST(NetDeviceTest, PacketForTheGuestArrivesWithItsHeader) {
  NetRig rig;
  rig.Start();
  rig.Offer(2048);
  NetHeader header;
  header.flags = kNetDataValid;
  ASSERT_TRUE(rig.HostSend(Frame(100), header));
  const auto packet = rig.Next();
  EXPECT_EQ(packet.bytes, Frame(100));
  header.num_buffers = uint16_t{1};
  EXPECT_EQ(Raw(packet.header), Raw(header));
}

TEST(NetDeviceTest, WithoutBuffersPacketsStayInTheTap) {
  NetRig rig;
  rig.Start();
  for (size_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(rig.HostSend(Frame(100 + i)));
  }
  EXPECT_FALSE(rig.NextMaybe(0, milliseconds(20)));
  EXPECT_EQ(rig.tap().receives(), 0U);
  for (size_t i = 0; i < 5; ++i) {
    rig.Offer(kBuffer);
    const auto packet = rig.Next();
    EXPECT_EQ(packet.bytes, Frame(100 + i));
  }
}

TEST(NetDeviceTest, BuffersThatAreGivenInAdvanceCauseNoNotification) {
  NetRig rig;
  rig.Start();
  rig.OfferMany(2, kBuffer);
  ASSERT_TRUE(rig.HostSend(Frame(60)));
  (void)rig.Next();
  for (int i = 0; i < 8; ++i) {
    rig.device().queue(0).Build().Writable(kBuffer).Submit();
    EXPECT_FALSE(rig.device().queue(0).ShouldNotify()) << i;
  }
}

TEST(NetDeviceTest, LongPacketIsSpreadOverBuffersAllUsedToTheirEnd) {
  NetRig rig;
  rig.Start();
  rig.OfferMany(60, kBuffer);
  const std::string frame = Frame(40000);
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(rig.HostSend(frame, TsoHeader()));
    const auto packet = rig.Next();
    EXPECT_EQ(packet.chains, (40000 + kNetHeaderSize + kBuffer - 1) / kBuffer);
    EXPECT_TRUE(packet.bytes == frame);
    // Only the first one was a surprise.
    EXPECT_EQ(rig.counter("rx_copied_bytes"), 40000 + kNetHeaderSize - kBuffer);
  }
  EXPECT_EQ(rig.counter("rx_packets"), 2U);
}

TEST(NetDeviceTest, PacketsOfEveryLengthArriveWhole) {
  NetRig rig;
  rig.Start(0, 256);
  const size_t lengths[] = {14, 15, 60, 1513, 1514, 1515, 3040, 65549, 64, 9000, 65535, 1514};
  for (const size_t length : lengths) {
    while (rig.device().queue(0).free_descriptors() > 100) {
      rig.Offer(700);
    }
    ASSERT_TRUE(rig.HostSend(Frame(length), TsoHeader()));
    const auto packet = rig.Next();
    EXPECT_TRUE(packet.bytes == Frame(length)) << length;
  }
}

TEST(NetDeviceTest, LongPacketWaitsForMoreBuffers) {
  NetRig rig;
  rig.Start();
  rig.OfferMany(2, kBuffer);
  ASSERT_TRUE(rig.HostSend(Frame(4000), TsoHeader()));
  ASSERT_TRUE(rig.HostSend(Frame(60)));
  EXPECT_FALSE(rig.NextMaybe(0, milliseconds(20)));
  rig.OfferMany(2, kBuffer);
  const auto packet = rig.Next();
  EXPECT_EQ(packet.chains, 3U);
  EXPECT_EQ(packet.bytes, Frame(4000));
  const auto next = rig.Next();
  EXPECT_EQ(next.bytes, Frame(60));
  EXPECT_EQ(rig.counter("rx_no_room"), 0U);
}

TEST(NetDeviceTest, WithoutMergingABufferTakesAWholePacket) {
  NetRig rig;
  rig.Start(kNetMrgRxbuf);
  rig.OfferMany(3, 2000);
  ASSERT_TRUE(rig.HostSend(Frame(1988)));
  ASSERT_TRUE(rig.HostSend(Frame(1989)));  // one byte more than fits
  ASSERT_TRUE(rig.HostSend(Frame(60)));
  const auto packet = rig.Next();
  EXPECT_EQ(packet.bytes, Frame(1988));
  EXPECT_EQ(packet.header.num_buffers.value(), 1);
  const auto next = rig.Next();
  EXPECT_EQ(next.bytes, Frame(60));
  EXPECT_EQ(rig.counter("rx_too_long"), 1U);
}

TEST(NetDeviceTest, OffloadsOfTheTapFollowNegotiation) {
  NetRig rig;
  rig.Start();
  EXPECT_EQ(rig.tap().current_offloads(), FakeTap::kAll);
  rig.Start(kNetGuestTso4 | kNetGuestUso6);
  EXPECT_EQ(rig.tap().current_offloads(), kTunCsum | kTunTso6 | kTunEcn);
  rig.Start(kNetGuestCsum);
  EXPECT_EQ(rig.tap().current_offloads(), 0U);
}

TEST(NetDeviceTest, MtuBoundsWhatArrivesUnsegmented) {
  NetRig rig({.mtu = 1400});
  rig.Start();
  rig.OfferMany(30, kBuffer);
  ASSERT_TRUE(rig.HostSend(Frame(1415)));
  ASSERT_TRUE(rig.HostSend(Frame(1419, kGuestMac, 0x8100)));
  EXPECT_TRUE(rig.WaitCounter("rx_too_long", 2));
  ASSERT_TRUE(rig.HostSend(Frame(1414)));
  ASSERT_TRUE(rig.HostSend(Frame(1418, kGuestMac, 0x8100)));
  ASSERT_TRUE(rig.HostSend(Frame(20000), TsoHeader()));
  for (const size_t length : {1414U, 1418U, 20000U}) {
    const auto packet = rig.Next();
    EXPECT_EQ(packet.bytes.size(), length);
  }
}

TEST(NetDeviceTest, PacketOfTheWholeMtuIsSentAsItIs) {
  // VIRTIO §5.1.4.1
  NetRig rig({.mtu = 9000});
  rig.Start();
  for (const std::string& frame : {Frame(9014), Frame(9018, testing::kHostMac, 0x8100)}) {
    rig.Transmit(frame);
    const auto packet = rig.HostReceive();
    EXPECT_TRUE(packet.bytes == frame);
    EXPECT_EQ(packet.header.gso_type, kNetGsoNone);
  }
}

TEST(NetDeviceTest, PairsThatAreGivenUpReceiveNothingMore) {
  // VIRTIO §5.1.9.5.6.2: not after the command has been used; and one pair after a reset.
  NetRig rig({.pairs = 2});
  const auto set = [&](uint16_t pairs) {
    return rig.Command(NetClass::kMq, kNetMqPairsSet, Raw(Le16(pairs)));
  };
  const auto second_is_quiet = [&] {
    rig.Offer(kBuffer, 1);
    EXPECT_TRUE(rig.HostSend(Frame(70), {}, 1));
    return !rig.NextMaybe(1, milliseconds(20));
  };
  rig.Start();
  ASSERT_EQ(set(2), 0);
  ASSERT_EQ(set(1), 0);
  EXPECT_TRUE(second_is_quiet());
  ASSERT_EQ(set(2), 0);
  EXPECT_EQ(rig.Next(1).bytes, Frame(70));
  rig.Start();
  EXPECT_TRUE(second_is_quiet());
}

TEST(NetDeviceTest, PairsAreUsedWhenTheDriverAsks) {
  NetRig rig({.pairs = 4});
  EXPECT_FALSE(rig.tap().active(1));
  rig.Start();
  const auto set = [&](uint16_t pairs) {
    return rig.Command(NetClass::kMq, kNetMqPairsSet, Raw(Le16(pairs)));
  };
  EXPECT_EQ(set(0), 1);
  EXPECT_EQ(set(5), 1);
  rig.Offer(kBuffer, 1);
  ASSERT_TRUE(rig.HostSend(Frame(70), {}, 1));
  EXPECT_FALSE(rig.NextMaybe(1, milliseconds(20))) << "only the first pair is in use";
  EXPECT_EQ(set(2), 0);
  EXPECT_TRUE(rig.tap().active(1));
  EXPECT_FALSE(rig.tap().active(2));
  const auto packet = rig.Next(1);
  EXPECT_EQ(packet.bytes, Frame(70));
  rig.Transmit(Frame(80), {}, 1);
  const auto sent = rig.HostReceive(1);
  EXPECT_EQ(sent.bytes, Frame(80));
  EXPECT_EQ(set(1), 0);
  EXPECT_FALSE(rig.tap().active(1));
  rig.tap().RefuseChanges(true);
  EXPECT_EQ(set(3), 1) << "the tap does not";
  EXPECT_FALSE(rig.tap().active(1));
}

TEST(NetDeviceTest, WithoutMultiqueueTheControlQueueIsTheThird) {
  NetRig rig({.pairs = 3});
  rig.Start(kNetMq);
  EXPECT_EQ(rig.control_queue(), 2);
  EXPECT_EQ(rig.Command(NetClass::kRx, kNetRxPromiscuous, std::string(1, '\0')), 0);
  rig.Transmit(Frame(60));
  (void)rig.HostReceive();
}

TEST(NetDeviceTest, LinkDownDropsBothWaysAndTellsTheDriver) {
  NetRig rig;
  rig.Start();
  rig.OfferMany(4, kBuffer);
  rig.net().SetLinkUp(false);
  rig.net().SetLinkUp(false);
  EXPECT_EQ(rig.device().Config<Le16>(6).value(), 0);
  EXPECT_EQ(rig.device().interrupt().config_signals(), 1U);
  EXPECT_FALSE(rig.tap().carrier());
  ASSERT_TRUE(rig.HostSend(Frame(60)));
  EXPECT_TRUE(rig.WaitCounter("rx_link_down", 1));
  rig.Transmit(Frame(60));
  rig.device().WaitUsed(1);
  EXPECT_EQ(rig.counter("tx_link_down"), 1U);
  rig.net().SetLinkUp(true);
  EXPECT_TRUE(rig.tap().carrier());
  EXPECT_EQ(rig.device().interrupt().config_signals(), 2U);
  ASSERT_TRUE(rig.HostSend(Frame(61)));
  const auto packet = rig.Next();
  EXPECT_EQ(packet.bytes, Frame(61));
}

// vhost-user's SET_VRING_ENABLE.
TEST(NetDeviceTest, DisabledQueuesDiscardWhatIsSentAndReceiveNothing) {
  NetRig rig;
  rig.net().SetQueueEnabled(0, false);
  rig.net().SetQueueEnabled(1, false);
  rig.Start();
  rig.OfferMany(4, kBuffer);
  rig.Transmit(Frame(60));
  EXPECT_TRUE(rig.device().WaitMaybe(1, milliseconds(5000)));
  EXPECT_EQ(rig.counter("tx_inactive"), 1U);
  EXPECT_FALSE(rig.HostReceiveMaybe(0, milliseconds(0)));
  const std::string frame = Frame(100);
  ASSERT_TRUE(rig.HostSend(frame));
  EXPECT_FALSE(rig.NextMaybe(0, milliseconds(50)));
  rig.net().SetQueueEnabled(0, true);
  EXPECT_EQ(rig.Next().bytes, frame) << "it has waited in the tap";
  rig.net().SetQueueEnabled(1, true);
  rig.Transmit(Frame(61));
  EXPECT_EQ(rig.HostReceive().bytes, Frame(61));
  EXPECT_TRUE(rig.WaitCounter("tx_packets", 1));
}

// Behind a vhost-user front-end, which has the control queue.
TEST(NetDeviceTest, WithoutAControlQueuePairsAreInUseWhileTheirRingsAreEnabled) {
  NetRig rig({.pairs = 3});
  const auto enable = [&](uint16_t pair, bool on) {
    rig.net().SetQueueEnabled(static_cast<uint16_t>(2 * pair), on);
    rig.net().SetQueueEnabled(static_cast<uint16_t>(2 * pair + 1), on);
  };
  enable(1, false);
  enable(2, false);
  rig.Start(kNetControlFeatures);
  EXPECT_FALSE(rig.tap().active(1));
  EXPECT_FALSE(rig.tap().active(2));
  rig.Transmit(Frame(60), {}, 2);
  EXPECT_TRUE(rig.device().WaitMaybe(5, milliseconds(5000)));
  EXPECT_EQ(rig.counter("tx_inactive"), 1U);
  enable(2, true);
  EXPECT_TRUE(rig.tap().active(2));
  EXPECT_FALSE(rig.tap().active(1));
  rig.Transmit(Frame(61), {}, 2);
  EXPECT_EQ(rig.HostReceive(2).bytes, Frame(61));
  rig.Offer(kBuffer, 2);
  ASSERT_TRUE(rig.HostSend(Frame(62), {}, 2));
  EXPECT_EQ(rig.Next(2).bytes, Frame(62));
  enable(2, false);
  EXPECT_FALSE(rig.tap().active(2));
  // The next driver has the control queue, or one pair only.
  enable(2, true);
  rig.Start();
  EXPECT_FALSE(rig.tap().active(2)) << "one pair, until it says so";
  EXPECT_EQ(rig.Command(NetClass::kMq, kNetMqPairsSet, Raw(Le16(uint16_t{3}))), 0);
  EXPECT_TRUE(rig.tap().active(2));
}

TEST(NetDeviceTest, PairThatTheTapDoesNotActivateDoesNotStart) {
  NetRig rig({.pairs = 2});
  rig.tap().RefusePairs(true);
  rig.device().Prepare(kNetControlFeatures);
  rig.device().core().WriteStatus(15);
  EXPECT_NE(rig.device().Status() & virtio::kStatusNeedsReset, 0);
  EXPECT_FALSE(rig.device().core().running(2));
  rig.tap().RefusePairs(false);
  rig.Start(kNetControlFeatures);
  EXPECT_TRUE(rig.tap().active(1));
}

TEST(NetDeviceTest, MtuThatAFrontEndTellsBoundsWhatIsReceivedUntilAReset) {
  NetRig rig({.mtu = 1500});
  rig.Start(kNetMtu);
  EXPECT_EQ(rig.net().SetMtu(67).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(rig.net().SetMtu(1501).error().code(), Code::kInvalidArgument);
  ASSERT_TRUE(rig.net().SetMtu(1000));
  rig.OfferMany(2, kBuffer);
  ASSERT_TRUE(rig.HostSend(Frame(1015)));
  ASSERT_TRUE(rig.HostSend(Frame(1014)));
  EXPECT_EQ(rig.Next().bytes, Frame(1014));
  EXPECT_EQ(rig.counter("rx_too_long"), 1U);
  rig.Start(kNetMtu);
  rig.Offer(kBuffer);
  ASSERT_TRUE(rig.HostSend(Frame(1400)));
  EXPECT_EQ(rig.Next().bytes, Frame(1400));
}

TEST(NetDeviceTest, RarpPacketAnnouncesAStation) {
  NetRig rig;
  constexpr MacAddress kMoved = {0x02, 0, 0, 0, 0, 0x44};
  ASSERT_TRUE(rig.net().SendRarp(kMoved)) << "no driver is needed";
  const testing::NetPacket packet = rig.HostReceive();
  const std::string address = Raw(kMoved);
  // RFC 903 in RFC 826's form: Ethernet and IPv4, request reverse, for and from the same station.
  const std::string expected = std::string(6, '\xff') + address + "\x80\x35" +
                               std::string("\x00\x01\x08\x00\x06\x04\x00\x03", 8) + address +
                               std::string(4, '\0') + address + std::string(4 + 18, '\0');
  EXPECT_EQ(packet.bytes, expected);
  EXPECT_EQ(Raw(packet.header), std::string(kNetHeaderSize, '\0'));
  EXPECT_EQ(rig.counter("announced"), 1U);
  EXPECT_EQ(rig.net().SendRarp({}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(rig.net().SendRarp({0x01, 0, 0, 0, 0, 1}).error().code(), Code::kInvalidArgument);
  rig.net().SetLinkUp(false);
  EXPECT_EQ(rig.net().SendRarp(kMoved).error().code(), Code::kFailedPrecondition);
  rig.net().SetLinkUp(true);
  rig.tap().FailSend(EAGAIN, 1);
  EXPECT_EQ(rig.net().SendRarp(kMoved).error().code(), Code::kUnavailable);
  EXPECT_EQ(rig.counter("announced"), 1U);
}

TEST(NetDeviceTest, WhatWaitsForTheTapIsDiscardedWhenItsQueueIsDisabled) {
  NetRig rig;
  rig.Start();
  rig.tap().FailSend(EAGAIN, 1000);
  rig.Transmit(Frame(60));
  ASSERT_TRUE(rig.WaitCounter("tx_blocked", 1));
  rig.net().SetQueueEnabled(1, false);
  EXPECT_TRUE(rig.device().WaitMaybe(1, milliseconds(5000)));
  EXPECT_EQ(rig.counter("tx_inactive"), 1U);
}

TEST(NetDeviceTest, TransmitLimitHoldsTheRate) {
  // 1000 bytes at once, then 20 a millisecond.
  NetRig rig({.transmit = {.bandwidth = {.size = 1000, .refill_time = milliseconds(50)}}});
  rig.Start();
  const auto start = RealClock::now();
  for (int i = 0; i < 10; ++i) {
    rig.Transmit(Frame(500));
  }
  for (int i = 0; i < 10; ++i) {
    (void)rig.HostReceive();
  }
  EXPECT_GE(RealClock::now() - start, milliseconds(150));
  EXPECT_GE(rig.counter("tx_throttled"), 1U);
}

TEST(NetDeviceTest, ReceiveLimitHoldsTheRateAndLosesNothing) {
  NetRig rig({.receive = {.ops = {.size = 2, .refill_time = milliseconds(20)}}});
  rig.Start();
  rig.OfferMany(12, kBuffer);
  const auto start = RealClock::now();
  for (size_t i = 0; i < 10; ++i) {
    ASSERT_TRUE(rig.HostSend(Frame(60 + i)));
  }
  for (size_t i = 0; i < 10; ++i) {
    const auto packet = rig.Next();
    EXPECT_EQ(packet.bytes.size(), 60 + i);
  }
  EXPECT_GE(RealClock::now() - start, milliseconds(70));
  EXPECT_GE(rig.counter("rx_throttled"), 1U);
}

TEST(NetDeviceTest, LimitsAreReachedBothWays) {
  // 2 MB a second, of which 0.2 may come at once: 1.2 MB take half a second.
  const RateLimiterConfig limit = EvenBandwidth(2'000'000);
  constexpr int kFrames = 30;  // as many as the rings take at once
  const std::string frame = Frame(40000);
  NetRig rig({.receive = limit, .transmit = limit});
  rig.Start();
  rig.OfferMany(kFrames, 65550);
  const auto seconds_since = [](RealClock::time_point start) {
    return std::chrono::duration<double>(RealClock::now() - start).count();
  };
  auto start = RealClock::now();
  for (int i = 0; i < kFrames; ++i) {
    rig.Transmit(frame);
  }
  for (int i = 0; i < kFrames; ++i) {
    (void)rig.HostReceive();
  }
  const double sent = seconds_since(start);
  EXPECT_GE(sent, 0.48);
  EXPECT_LE(sent, 0.8) << "on a busy machine a little later, not a multiple";
  start = RealClock::now();
  for (int i = 0; i < kFrames; ++i) {
    ASSERT_TRUE(rig.HostSend(frame));
    if (i >= 5) {
      EXPECT_EQ(rig.Next().bytes.size(), frame.size());
    }
  }
  for (int i = 0; i < 5; ++i) {
    (void)rig.Next();
  }
  const double received = seconds_since(start);
  EXPECT_GE(received, 0.48);
  EXPECT_LE(received, 0.8);
}

TEST(NetDeviceTest, LimitsAreLiftedAtRunTime) {
  const RateLimiterConfig strict{.ops = {.size = 1, .refill_time = std::chrono::hours(1)}};
  NetRig rig({.receive = strict, .transmit = strict});
  rig.Start();
  rig.OfferMany(4, kBuffer);
  for (int i = 0; i < 2; ++i) {
    rig.Transmit(Frame(60));
    ASSERT_TRUE(rig.HostSend(Frame(60)));
  }
  (void)rig.HostReceive();
  (void)rig.Next();
  EXPECT_FALSE(rig.HostReceiveMaybe(0, milliseconds(20)));
  EXPECT_FALSE(rig.NextMaybe(0, milliseconds(1)));
  rig.net().SetLimits({}, {});
  (void)rig.HostReceive();
  (void)rig.Next();
}

TEST(NetDeviceTest, PauseGivesBuffersBackThatNoPacketHasUsed) {
  NetRig rig;
  rig.Start();
  rig.OfferMany(60, kBuffer);
  ASSERT_TRUE(rig.HostSend(Frame(40000), TsoHeader()));
  (void)rig.Next();
  ASSERT_TRUE(rig.HostSend(Frame(60)));  // buffers were gathered for another long one
  (void)rig.Next();
  const auto state = rig.device().core().Pause();
  const std::optional<virtio::QueueState>& ring = state.rings[0];
  WV_CHECK(ring.has_value());
  EXPECT_EQ(ring->next_available, ring->next_used);
  EXPECT_EQ(ring->next_used, 28);
  ASSERT_TRUE(rig.HostSend(Frame(61)));
  ASSERT_TRUE(rig.device().core().Resume());
  const auto packet = rig.Next();
  EXPECT_EQ(packet.bytes, Frame(61));
}

TEST(NetDeviceTest, PauseKeepsWhatTheDriverHasSet) {
  NetRig rig({.pairs = 2});
  rig.Start();
  ASSERT_EQ(rig.Command(NetClass::kMq, kNetMqPairsSet, Raw(Le16(uint16_t{2}))), 0);
  ASSERT_EQ(rig.Command(NetClass::kOffloads, kNetOffloadsSet, Raw(Le64(kNetGuestCsum))), 0);
  (void)rig.device().core().Pause();
  ASSERT_TRUE(rig.device().core().Resume());
  EXPECT_EQ(rig.tap().current_offloads(), kTunCsum);
  EXPECT_TRUE(rig.tap().active(1));
  rig.Start();
  EXPECT_EQ(rig.tap().current_offloads(), FakeTap::kAll);
  EXPECT_FALSE(rig.tap().active(1));
}

TEST(NetDeviceTest, StateMovesToAnotherDevice) {
  NetRig rig({.pairs = 2});
  rig.Start();
  const MacAddress mac = {0x02, 0, 0, 0, 0, 0x55};
  ASSERT_EQ(rig.Command(NetClass::kMac, kNetMacAddrSet, Raw(mac)), 0);
  ASSERT_EQ(rig.Command(NetClass::kMq, kNetMqPairsSet, Raw(Le16(uint16_t{2}))), 0);
  ASSERT_EQ(rig.Command(NetClass::kRx, kNetRxPromiscuous, std::string(1, '\0')), 0);
  (void)rig.device().core().Pause();
  const NetState state = rig.net().Save();

  NetRig other({.pairs = 2});
  ASSERT_TRUE(other.net().Restore(state));
  EXPECT_EQ(other.device().Config<MacAddress>(0), mac);
  EXPECT_TRUE(other.tap().active(1));
  EXPECT_EQ(other.tap().current_offloads(), FakeTap::kAll);
  EXPECT_FALSE(other.net().Save().filter.promiscuous);

  NetState bad = state;
  bad.version = 99;
  EXPECT_FALSE(other.net().Restore(bad));
  bad = state;
  bad.pairs = 3;
  EXPECT_FALSE(other.net().Restore(bad));
  bad = state;
  bad.features |= kNetRss;
  EXPECT_FALSE(other.net().Restore(bad));
  bad = state;
  bad.offloads |= kNetCsum;
  EXPECT_FALSE(other.net().Restore(bad));
}

TEST(NetDeviceTest, CreateRefusesWhatIsNoInterface) {
  const auto create = [](const MacAddress& mac, uint16_t mtu, uint16_t size, bool tap) {
    auto device = NetDevice::Create({.worker = {.name = "net", .on_thread_start = nullptr},
                                     .tap = tap ? std::make_unique<FakeTap>(1) : nullptr,
                                     .interface = {.mac = mac, .mtu = mtu},
                                     .queue_size = size});
    return device ? Code::kOk : device.error().code();
  };
  EXPECT_EQ(create(kGuestMac, 0, 256, true), Code::kOk);
  EXPECT_EQ(create(kGuestMac, 0, 256, false), Code::kInvalidArgument);
  EXPECT_EQ(create({0x01, 0, 0, 0, 0, 1}, 0, 256, true), Code::kInvalidArgument);
  EXPECT_EQ(create({}, 0, 256, true), Code::kInvalidArgument);
  EXPECT_EQ(create(kGuestMac, 67, 256, true), Code::kInvalidArgument);
  EXPECT_EQ(create(kGuestMac, 0, 100, true), Code::kInvalidArgument);
  EXPECT_EQ(create(kGuestMac, 0, 2048, true), Code::kInvalidArgument);
}

}  // namespace
}  // namespace wyvern::devices
