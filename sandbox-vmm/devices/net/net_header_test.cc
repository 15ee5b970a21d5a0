// Headers in both directions, without a device.
#include "net/net_header.h"

#include <gtest/gtest.h>

#include <tuple>
#include <utility>

#include "base/check.h"
#include "net/net_config.h"
#include "net/testing/net_rig.h"

namespace wyvern::devices {
namespace {

using testing::TsoHeader;

constexpr uint64_t kAllHost = kNetCsum | kNetHostTso4 | kNetHostTso6 | kNetHostEcn | kNetHostUso;

TxFault TransmitFault(const NetHeader& header, uint32_t length, uint64_t features = kAllHost) {
  const auto checked = CheckTransmitHeader(header, length, features);
  return checked ? TxFault{0} : checked.error();
}

NetHeader Checksum(uint16_t start, uint16_t offset) {
  NetHeader header;
  header.flags = kNetNeedsCsum;
  header.csum_start = start;
  header.csum_offset = offset;
  return header;
}

TEST(NetHeaderTest, PacketsHaveAnEthernetHeaderAndAnEnd) {
  EXPECT_EQ(TransmitFault({}, kEthernetHeader - 1), TxFault::kLength);
  EXPECT_EQ(TransmitFault({}, kEthernetHeader), TxFault{0});
  EXPECT_EQ(TransmitFault({}, kNetMaxPacket), TxFault{0});
  EXPECT_EQ(TransmitFault({}, kNetMaxPacket + 1), TxFault::kLength);
}

TEST(NetHeaderTest, Cve202411614_ChecksumFieldIsInsideThePacket) {
  EXPECT_EQ(TransmitFault(Checksum(34, 16), 52), TxFault{0});
  EXPECT_EQ(TransmitFault(Checksum(34, 16), 51), TxFault::kChecksum);
  EXPECT_EQ(TransmitFault(Checksum(0xffff, 0xffff), 1500), TxFault::kChecksum);
}

TEST(NetHeaderTest, ChecksumFlagThatWasNotNegotiatedIsIgnored) {
  const auto checked = CheckTransmitHeader(Checksum(0xffff, 0xffff), 60, 0);
  ASSERT_TRUE(checked);
  EXPECT_EQ(checked->flags, 0);
  EXPECT_EQ(checked->csum_start.value(), 0);
}

TEST(NetHeaderTest, ChecksumFieldsWithoutTheirFlagAreNotUsed) {
  // VIRTIO §5.1.9.2.2
  NetHeader header = Checksum(0xffff, 0xffff);
  header.flags = 0;
  const auto checked = CheckTransmitHeader(header, 60, kAllHost);
  ASSERT_TRUE(checked);
  EXPECT_EQ(testing::Raw(*checked), testing::Raw(NetHeader{}));
}

TEST(NetHeaderTest, UnknownFlagsAndBufferCountsDoNotReachTheTap) {
  NetHeader header = Checksum(34, 16);
  header.flags = 0xff;
  header.num_buffers = uint16_t{77};
  header.gso_size = uint16_t{9};
  header.hdr_len = uint16_t{1};
  const auto checked = CheckTransmitHeader(header, 60, kAllHost);
  ASSERT_TRUE(checked);
  EXPECT_EQ(checked->flags, kNetNeedsCsum);
  EXPECT_EQ(checked->num_buffers.value(), 0);
  EXPECT_EQ(checked->gso_size.value(), 0);
  EXPECT_EQ(checked->hdr_len.value(), 0);
}

TEST(NetHeaderTest, EachKindOfSegmentsNeedsItsFeature) {
  const std::pair<uint8_t, uint64_t> kinds[] = {
      {kNetGsoTcp4, kNetHostTso4}, {kNetGsoTcp6, kNetHostTso6}, {kNetGsoUdp, kNetHostUso}};
  for (const auto& [type, feature] : kinds) {
    EXPECT_EQ(TransmitFault(TsoHeader(type), 9000), TxFault{0}) << int{type};
    EXPECT_EQ(TransmitFault(TsoHeader(type), 9000, kAllHost & ~feature), TxFault::kSegmentation);
    EXPECT_EQ(TransmitFault(TsoHeader(type), 9000, feature), TxFault::kSegmentation)
        << "without CSUM";
  }
}

TEST(NetHeaderTest, SegmentsThatMakeNoSenseAreFaults) {
  NetHeader header = TsoHeader();
  header.flags = 0;
  EXPECT_EQ(TransmitFault(header, 9000), TxFault::kSegmentation);
  header = TsoHeader(kNetGsoTcp4, 0);
  EXPECT_EQ(TransmitFault(header, 9000), TxFault::kSegmentation);
  header = TsoHeader();
  header.csum_offset = uint16_t{6};
  EXPECT_EQ(TransmitFault(header, 9000), TxFault::kSegmentation);
  EXPECT_EQ(TransmitFault(TsoHeader(), 53), TxFault::kSegmentation) << "no whole TCP header";
  for (const uint8_t type :
       {kNetGsoUdpFragments, uint8_t{2}, uint8_t{6}, uint8_t{0x7f}, kNetGsoEcn, uint8_t{0xff}}) {
    EXPECT_EQ(TransmitFault(TsoHeader(type), 9000), TxFault::kSegmentation) << int{type};
  }
}

TEST(NetHeaderTest, EcnIsForTcpAndNegotiated) {
  const uint8_t tcp = kNetGsoTcp4 | kNetGsoEcn;
  EXPECT_EQ(TransmitFault(TsoHeader(tcp), 9000), TxFault{0});
  EXPECT_EQ(TransmitFault(TsoHeader(tcp), 9000, kAllHost & ~kNetHostEcn), TxFault::kSegmentation);
  NetHeader udp = TsoHeader(kNetGsoUdp);
  udp.gso_type = kNetGsoUdp | kNetGsoEcn;
  EXPECT_EQ(TransmitFault(udp, 9000), TxFault::kSegmentation);
}

TEST(NetHeaderTest, HeaderLengthIsAHintThatIsBroughtInRange) {
  const std::tuple<uint16_t, uint32_t, uint16_t> cases[] = {{66, 9000, 66},
                                                            {0, 9000, 54},
                                                            {13, 9000, 54},
                                                            {0xffff, 9000, 9000},
                                                            {0xffff, kNetMaxPacket, 0xffff}};
  for (const auto& [hint, length, expected] : cases) {
    NetHeader header = TsoHeader();
    header.hdr_len = hint;
    const auto checked = CheckTransmitHeader(header, length, kAllHost);
    ASSERT_TRUE(checked);
    EXPECT_EQ(checked->hdr_len.value(), expected) << hint;
  }
}

TEST(NetHeaderTest, DriverWithoutChecksumsGetsNoFlags) {
  NetHeader header;
  header.flags = kNetDataValid;
  const auto plain = CheckReceiveHeader(header, 0);
  WV_CHECK(plain.has_value());
  EXPECT_EQ(plain->flags, 0);
  EXPECT_FALSE(CheckReceiveHeader(Checksum(34, 16), 0));
  const auto valid = CheckReceiveHeader(header, kNetGuestCsum);
  WV_CHECK(valid.has_value());
  EXPECT_EQ(valid->flags, kNetDataValid);
}

TEST(NetHeaderTest, DriverGetsOnlySegmentsThatItTakes) {
  EXPECT_TRUE(CheckReceiveHeader(TsoHeader(), kNetGuestCsum | kNetGuestTso4));
  EXPECT_FALSE(CheckReceiveHeader(TsoHeader(), kNetGuestCsum | kNetGuestTso6));
  EXPECT_TRUE(CheckReceiveHeader(TsoHeader(kNetGsoTcp6), kNetGuestCsum | kNetGuestTso6));
  EXPECT_TRUE(CheckReceiveHeader(TsoHeader(kNetGsoUdp), kNetGuestCsum | kNetGuestUso4));
  EXPECT_FALSE(CheckReceiveHeader(TsoHeader(kNetGsoUdp), kNetGuestCsum | kNetGuestTso4));
  const auto ecn = static_cast<uint8_t>(kNetGsoTcp4 | kNetGsoEcn);
  EXPECT_FALSE(CheckReceiveHeader(TsoHeader(ecn), kNetGuestCsum | kNetGuestTso4));
  EXPECT_TRUE(CheckReceiveHeader(TsoHeader(ecn), kNetGuestCsum | kNetGuestTso4 | kNetGuestEcn));
  NetHeader bare = TsoHeader();
  bare.flags = 0;
  EXPECT_FALSE(CheckReceiveHeader(bare, kNetGuestOffloads));
}

TEST(NetHeaderTest, TunOffloadsAreWhatTheKernelTakes) {
  EXPECT_EQ(TunOffloads(0), 0U);
  EXPECT_EQ(TunOffloads(kNetGuestTso4), 0U) << "segments need checksums";
  EXPECT_EQ(TunOffloads(kNetGuestCsum | kNetGuestEcn), kTunCsum) << "ECN needs segments";
  EXPECT_EQ(TunOffloads(kNetGuestCsum | kNetGuestUso4), kTunCsum) << "USO comes as a pair";
  EXPECT_EQ(TunOffloads(kNetGuestOffloads), testing::FakeTap::kAll);
}

TEST(NetHeaderTest, OldKernelsOfferNoUso) {
  EXPECT_EQ(TapFeatures(0), 0U);
  const uint64_t old = TapFeatures(kTunCsum | kTunTso4 | kTunTso6 | kTunEcn);
  EXPECT_EQ(old & (kNetHostUso | kNetGuestUso4 | kNetGuestUso6), 0U);
  EXPECT_NE(old & kNetHostTso6, 0U);
  EXPECT_NE(TapFeatures(testing::FakeTap::kAll) & kNetHostUso, 0U);
}

TEST(NetHeaderTest, NoFeatureIsOfferedWithoutThoseThatItRequires) {
  // VIRTIO §2.2.2, §5.1.3.1; whatever a kernel says that its taps can do.
  const std::pair<uint64_t, uint64_t> requirements[] = {
      // a feature, and any of those it needs
      {kNetGuestTso4, kNetGuestCsum},
      {kNetGuestTso6, kNetGuestCsum},
      {kNetGuestEcn, kNetGuestTso4 | kNetGuestTso6},
      {kNetGuestUso4, kNetGuestCsum},
      {kNetGuestUso6, kNetGuestCsum},
      {kNetHostTso4, kNetCsum},
      {kNetHostTso6, kNetCsum},
      {kNetHostEcn, kNetHostTso4 | kNetHostTso6},
      {kNetHostUso, kNetCsum},
      {kNetCtrlRx, kNetCtrlVq},
      {kNetCtrlRxExtra, kNetCtrlVq},
      {kNetCtrlMacAddr, kNetCtrlVq},
      {kNetCtrlGuestOffloads, kNetCtrlVq},
      {kNetGuestAnnounce, kNetCtrlVq},
      {kNetMq, kNetCtrlVq}};
  for (uint32_t tun = 0; tun < 0x80; ++tun) {
    const uint64_t offered = NetFeatures({.mac = testing::kGuestMac}, 2, tun);
    for (const auto& [feature, needs] : requirements) {
      EXPECT_TRUE((offered & feature) == 0 || (offered & needs) != 0) << tun << " " << feature;
    }
  }
}

}  // namespace
}  // namespace wyvern::devices
