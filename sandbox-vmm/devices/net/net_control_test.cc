// The control queue, by its commands.
#include <gtest/gtest.h>

#include "net/testing/net_rig.h"

namespace wyvern::devices {
namespace {

using testing::Frame;
using testing::kGuestMac;
using testing::NetRig;
using testing::Raw;

constexpr uint8_t kAckOk = 0;
constexpr uint8_t kAckErr = 1;
constexpr MacAddress kGroup = {0x01, 0, 0x5e, 0, 0, 0x07};
constexpr MacAddress kOther = {0x02, 0, 0, 0, 0, 0x77};
constexpr MacAddress kEverybody = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

std::string Table(const std::vector<MacAddress>& addresses) {
  std::string bytes = Raw(Le32(static_cast<uint32_t>(addresses.size())));
  for (const MacAddress& address : addresses) {
    bytes += Raw(address);
  }
  return bytes;
}

std::string On(bool on) {
  return std::string(1, on ? '\1' : '\0');
}

class NetControlTest : public ::testing::Test {
 protected:
  // Whether a packet to that address arrives; one to the guest follows, so nothing has to be waited
  // for in vain.
  bool Arrives(const MacAddress& destination) {
    rig_.Offer(256);
    rig_.Offer(256);
    EXPECT_TRUE(rig_.HostSend(Frame(100, destination)));
    EXPECT_TRUE(rig_.HostSend(Frame(60, kMarker)));
    const testing::NetPacket first = rig_.Next();
    if (first.bytes == Frame(60, kMarker)) {
      return false;
    }
    (void)rig_.Next();
    return first.bytes == Frame(100, destination);
  }

  uint8_t Mode(uint8_t mode, bool on) { return rig_.Command(NetClass::kRx, mode, On(on)); }

  // Unicast that passes every filter but no_unicast: this test's table always has it.
  static constexpr MacAddress kMarker = {0x02, 0, 0, 0, 0, 0x99};

  uint8_t Tables(std::vector<MacAddress> unicast, const std::vector<MacAddress>& multicast) {
    unicast.push_back(kMarker);
    return rig_.Command(NetClass::kMac, kNetMacTableSet, Table(unicast) + Table(multicast));
  }

  NetRig rig_;
};

TEST_F(NetControlTest, NothingIsFilteredUntilTheDriverSaysSo) {
  rig_.Start();
  EXPECT_TRUE(Arrives(kOther));
  EXPECT_TRUE(Arrives(kGroup));
}

TEST_F(NetControlTest, OnlyWhatIsAddressedToTheGuestArrivesWhenItIsNotPromiscuous) {
  rig_.Start();
  ASSERT_EQ(Tables({}, {}), kAckOk);
  ASSERT_EQ(Mode(kNetRxPromiscuous, false), kAckOk);
  EXPECT_TRUE(Arrives(kGuestMac));
  EXPECT_TRUE(Arrives(kEverybody));
  EXPECT_FALSE(Arrives(kOther));
  EXPECT_FALSE(Arrives(kGroup));
  EXPECT_EQ(rig_.counter("rx_filtered"), 2U);
}

TEST_F(NetControlTest, TableAddsAddressesAndIsReplaced) {
  rig_.Start();
  ASSERT_EQ(Mode(kNetRxPromiscuous, false), kAckOk);
  ASSERT_EQ(Tables({kOther}, {kGroup}), kAckOk);
  EXPECT_TRUE(Arrives(kOther));
  EXPECT_TRUE(Arrives(kGroup));
  ASSERT_EQ(Tables({}, {}), kAckOk);
  EXPECT_FALSE(Arrives(kOther));
  EXPECT_FALSE(Arrives(kGroup));
}

TEST_F(NetControlTest, MoreAddressesThanTheTableHoldsLetAllOfTheirKindPass) {
  rig_.Start(0, 64);
  ASSERT_EQ(Mode(kNetRxPromiscuous, false), kAckOk);
  ASSERT_EQ(Tables({}, std::vector<MacAddress>(RxTable::kMaxEntries + 1, kGroup)), kAckOk);
  EXPECT_TRUE(Arrives({0x33, 0x33, 1, 2, 3, 4}));
  EXPECT_FALSE(Arrives(kOther));
}

TEST_F(NetControlTest, ModesOfRxExtraWinOverTheTable) {
  rig_.Start();
  ASSERT_EQ(Tables({}, {kGroup}), kAckOk);
  ASSERT_EQ(Mode(kNetRxPromiscuous, false), kAckOk);
  ASSERT_EQ(Mode(kNetRxAllUnicast, true), kAckOk);
  EXPECT_TRUE(Arrives(kOther));
  ASSERT_EQ(Mode(kNetRxAllMulticast, true), kAckOk);
  EXPECT_TRUE(Arrives({0x33, 0x33, 1, 2, 3, 4}));
  ASSERT_EQ(Mode(kNetRxNoMulticast, true), kAckOk);
  EXPECT_FALSE(Arrives(kGroup));
  EXPECT_TRUE(Arrives(kEverybody)) << "broadcast is not multicast here";
  ASSERT_EQ(Mode(kNetRxNoBroadcast, true), kAckOk);
  EXPECT_FALSE(Arrives(kEverybody));
  ASSERT_EQ(Mode(kNetRxPromiscuous, true), kAckOk);
  EXPECT_TRUE(Arrives(kEverybody)) << "promiscuous wins over all";
}

TEST_F(NetControlTest, SuppressedUnicastStaysAwayWhateverElseIsSet) {
  rig_.Start();
  ASSERT_EQ(Tables({kOther}, {}), kAckOk);
  ASSERT_EQ(Mode(kNetRxPromiscuous, false), kAckOk);
  ASSERT_EQ(Mode(kNetRxAllUnicast, true), kAckOk);
  ASSERT_EQ(Mode(kNetRxNoUnicast, true), kAckOk);
  rig_.OfferMany(3, 256);
  for (const MacAddress& destination : {kGuestMac, kOther, kEverybody}) {
    ASSERT_TRUE(rig_.HostSend(Frame(100, destination)));
  }
  EXPECT_EQ(rig_.Next().bytes, Frame(100, kEverybody));
  EXPECT_EQ(rig_.counter("rx_filtered"), 2U);
  ASSERT_EQ(Mode(kNetRxNoUnicast, false), kAckOk);
  EXPECT_TRUE(Arrives(kOther));
}

TEST_F(NetControlTest, VlanTagsAreNotFiltered) {
  // VIRTIO §5.1.9.5.3.1: without CTRL_VLAN, which is not offered, all tagged packets are accepted.
  constexpr uint64_t kCtrlVlan = uint64_t{1} << 19U;
  rig_.Start();
  EXPECT_EQ(rig_.net().traits().features & kCtrlVlan, 0U);
  ASSERT_EQ(Tables({}, {}), kAckOk);
  ASSERT_EQ(Mode(kNetRxPromiscuous, false), kAckOk);
  for (const uint16_t tag : {0x8100, 0x88a8}) {
    rig_.Offer(256);
    ASSERT_TRUE(rig_.HostSend(Frame(100, kGuestMac, tag)));
    EXPECT_EQ(rig_.Next().bytes, Frame(100, kGuestMac, tag));
  }
}

TEST_F(NetControlTest, ModesNeedTheirFeatureAndAYesOrNo) {
  rig_.Start(kNetCtrlRxExtra);
  EXPECT_EQ(Mode(kNetRxAllMulticast, true), kAckOk);
  EXPECT_EQ(Mode(kNetRxNoUnicast, true), kAckErr);
  EXPECT_EQ(rig_.Command(NetClass::kRx, kNetRxPromiscuous, "\2"), kAckErr);
  EXPECT_EQ(rig_.Command(NetClass::kRx, kNetRxPromiscuous, ""), kAckErr);
  EXPECT_EQ(rig_.Command(NetClass::kRx, kNetRxPromiscuous, std::string(2, '\0')), kAckErr);
  EXPECT_EQ(rig_.Command(NetClass::kRx, 6, On(true)), kAckErr);
  EXPECT_EQ(rig_.counter("commands_refused"), 5U);
}

TEST_F(NetControlTest, AddressThatIsSetIsInTheConfigurationUntilReset) {
  rig_.Start();
  ASSERT_EQ(rig_.Command(NetClass::kMac, kNetMacAddrSet, Raw(kOther)), kAckOk);
  EXPECT_EQ(rig_.device().Config<MacAddress>(0), kOther);
  EXPECT_EQ(rig_.Command(NetClass::kMac, kNetMacAddrSet, Raw(kGroup)), kAckErr);
  EXPECT_EQ(rig_.Command(NetClass::kMac, kNetMacAddrSet, "short"), kAckErr);
  ASSERT_EQ(Tables({}, {}), kAckOk);
  ASSERT_EQ(Mode(kNetRxPromiscuous, false), kAckOk);
  EXPECT_TRUE(Arrives(kOther));
  EXPECT_FALSE(Arrives(kGuestMac));
  rig_.Start();
  EXPECT_EQ(rig_.device().Config<MacAddress>(0), kGuestMac);
  EXPECT_TRUE(Arrives(kGroup)) << "the filter is as new";
}

TEST_F(NetControlTest, LengthsInATableAreNotBelieved) {
  rig_.Start();
  const auto set = [&](const std::string& data) {
    return rig_.Command(NetClass::kMac, kNetMacTableSet, data);
  };
  EXPECT_EQ(set(""), kAckErr);
  EXPECT_EQ(set(Raw(Le32(0U))), kAckErr);
  EXPECT_EQ(set(Raw(Le32(0xffffffffU)) + Raw(Le32(0U))), kAckErr);
  EXPECT_EQ(set(Raw(Le32(1U)) + Raw(kOther) + Raw(Le32(0x2aaaaaabU))), kAckErr);
  EXPECT_EQ(set(Raw(Le32(1U)) + Raw(kOther)), kAckErr);
  EXPECT_EQ(set(Table({}) + Table({}) + "x"), kAckErr);
  EXPECT_EQ(set(Table({kOther}) + Table({})), kAckOk);
}

TEST_F(NetControlTest, UnknownClassesAndFeaturesThatWereNotNegotiatedAreRefused) {
  rig_.Start(kNetCtrlMacAddr | kNetCtrlGuestOffloads | kNetGuestAnnounce);
  EXPECT_EQ(rig_.Command(NetClass::kVlan, 0, std::string(2, '\0')), kAckErr);
  EXPECT_EQ(rig_.Command(static_cast<NetClass>(200), 0, ""), kAckErr);
  EXPECT_EQ(rig_.Command(NetClass::kMac, kNetMacAddrSet, Raw(kOther)), kAckErr);
  EXPECT_EQ(rig_.Command(NetClass::kOffloads, kNetOffloadsSet, Raw(Le64(uint64_t{0}))), kAckErr);
  EXPECT_EQ(rig_.Command(NetClass::kAnnounce, kNetAnnounceAck, ""), kAckErr);
  EXPECT_EQ(rig_.Command(NetClass::kMq, kNetMqPairsSet, Raw(Le16(uint16_t{1}))), kAckErr);
}

TEST_F(NetControlTest, OffloadsAreThoseNegotiatedOrFewer) {
  rig_.Start(kNetGuestEcn);
  EXPECT_EQ(rig_.tap().current_offloads(), testing::FakeTap::kAll & ~kTunEcn);
  const auto set = [&](uint64_t offloads) {
    return rig_.Command(NetClass::kOffloads, kNetOffloadsSet, Raw(Le64(offloads)));
  };
  EXPECT_EQ(set(kNetGuestCsum), kAckOk);
  EXPECT_EQ(rig_.tap().current_offloads(), kTunCsum);
  EXPECT_EQ(set(kNetGuestCsum | kNetGuestEcn), kAckErr);
  EXPECT_EQ(set(kNetMrgRxbuf), kAckErr);
  EXPECT_EQ(rig_.tap().current_offloads(), kTunCsum);
  rig_.tap().RefuseChanges(true);
  EXPECT_EQ(set(0), kAckErr) << "the tap does not";
  rig_.tap().RefuseChanges(false);
  EXPECT_EQ(set(0), kAckOk);
  EXPECT_EQ(rig_.tap().current_offloads(), 0U);
}

TEST_F(NetControlTest, AnnounceIsAskedForAndAcknowledged) {
  rig_.net().Announce();  // nobody to ask yet
  rig_.Start();
  EXPECT_EQ(rig_.device().Config<Le16>(6).value(), kNetLinkUp);
  rig_.net().Announce();
  EXPECT_EQ(rig_.device().Config<Le16>(6).value(), kNetLinkUp | kNetAnnounce);
  EXPECT_EQ(rig_.device().interrupt().config_signals(), 1U);
  EXPECT_EQ(rig_.Command(NetClass::kAnnounce, kNetAnnounceAck, ""), kAckOk);
  EXPECT_EQ(rig_.device().Config<Le16>(6).value(), kNetLinkUp);
}

TEST_F(NetControlTest, CommandWithoutRoomForAnAnswerIsNotDone) {
  rig_.Start();
  auto& driver = rig_.device().queue(2);
  driver.Build()
      .Readable(Raw(NetCommand{.command_class = 1, .command = kNetMacAddrSet}))
      .Readable(Raw(kOther))
      .Submit();
  rig_.device().Kick(2);
  EXPECT_EQ(rig_.device().WaitUsed(2).written, 0U);
  EXPECT_EQ(rig_.device().Config<MacAddress>(0), kGuestMac);
}

TEST_F(NetControlTest, CommandSplitByteByByteIsOneCommand) {
  rig_.Start();
  const std::string bytes =
      Raw(NetCommand{.command_class = 1, .command = kNetMacAddrSet}) + Raw(kOther);
  auto build = rig_.device().queue(2).Build();
  for (const char byte : bytes) {
    build.Readable(std::string_view(&byte, 1));
  }
  const uint16_t head = build.Writable(1).Submit();
  rig_.device().Kick(2);
  EXPECT_EQ(rig_.device().WaitUsed(2).written, 1U);
  EXPECT_EQ(rig_.device().queue(2).Written(head, 1)[0], kAckOk);
  EXPECT_EQ(rig_.device().Config<MacAddress>(0), kOther);
}

}  // namespace
}  // namespace wyvern::devices
