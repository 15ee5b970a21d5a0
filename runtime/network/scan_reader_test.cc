#include "network/scan_reader.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netlink/attr.h>
#include <netlink/msg.h>

#include <array>
#include <cstring>

#include "network/netlink.h"

namespace wyvern::runtime {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// A message as the kernel would build it, or wrongly.
template <typename Header>
class Message {
 public:
  Message(int type, Header header) : message_(nlmsg_alloc_simple(type, 0)) {
    nlmsg_append(message_.get(), &header, sizeof(header), NLMSG_ALIGNTO);
  }

  Message& Put(int number, const std::string& bytes) {
    nla_put(message_.get(), number, static_cast<int>(bytes.size()), bytes.data());
    return *this;
  }

  template <typename T>
  Message& Number(int number, T value) {
    nla_put(message_.get(), number, sizeof(value), &value);
    return *this;
  }

  Message& Text(int number, const std::string& text) { return Put(number, text + '\0'); }

  Message& Ip(int number, const char* text) {
    std::array<char, 16> bytes{};
    const bool v4 = inet_pton(AF_INET, text, bytes.data()) == 1;
    if (!v4) {
      EXPECT_EQ(inet_pton(AF_INET6, text, bytes.data()), 1) << text;
    }
    return Put(number, std::string(bytes.data(), v4 ? 4 : 16));
  }

  nlmsghdr* get() { return nlmsg_hdr(message_.get()); }

 private:
  NetlinkMessage message_;
};

Message<ifinfomsg> NewLink(int index, const std::string& name) {
  ifinfomsg header{};
  header.ifi_index = index;
  header.ifi_type = ARPHRD_ETHER;
  header.ifi_flags = IFF_UP;
  Message<ifinfomsg> message(RTM_NEWLINK, header);
  message.Text(IFLA_IFNAME, name)
      .Put(IFLA_ADDRESS, std::string("\x02\0\0\0\0", 5) + static_cast<char>(index))
      .Number<uint32_t>(IFLA_MTU, 1500);
  return message;
}

Message<ifaddrmsg> NewAddress(int family, unsigned prefix) {
  ifaddrmsg header{};
  header.ifa_family = static_cast<uint8_t>(family);
  header.ifa_prefixlen = static_cast<uint8_t>(prefix);
  header.ifa_index = 2;
  return {RTM_NEWADDR, header};
}

rtmsg RouteHeader(int family, unsigned prefix) {
  rtmsg header{};
  header.rtm_family = static_cast<uint8_t>(family);
  header.rtm_dst_len = static_cast<uint8_t>(prefix);
  header.rtm_table = RT_TABLE_MAIN;
  header.rtm_protocol = RTPROT_BOOT;
  header.rtm_type = RTN_UNICAST;
  return header;
}

class ScanReaderTest : public ::testing::Test {
 protected:
  ScanReaderTest() { EXPECT_TRUE(reader_.Add(NewLink(2, "eth0").get())); }

  template <typename Header>
  void Add(Message<Header>& message) {
    const auto added = reader_.Add(message.get());
    EXPECT_TRUE(added.has_value()) << added.error().message();
  }

  template <typename Header>
  Code Refused(Message<Header>& message) {
    const auto added = reader_.Add(message.get());
    return added.has_value() ? Code::kOk : added.error().code();
  }

  std::vector<Route> Routes() { return std::move(reader_).Finish().routes; }

  ScanReader reader_;
};

TEST_F(ScanReaderTest, LinksWithoutNameIndexOrMacAreNone) {
  auto nameless = NewLink(3, "");
  EXPECT_EQ(Refused(nameless), Code::kInternal);
  auto numberless = NewLink(0, "eth1");
  EXPECT_EQ(Refused(numberless), Code::kInternal);
  ifinfomsg header{};
  header.ifi_index = 4;
  header.ifi_type = ARPHRD_ETHER;
  Message<ifinfomsg> bare(RTM_NEWLINK, header);
  bare.Text(IFLA_IFNAME, "eth2")
      .Put(IFLA_ADDRESS, "short")
      .Put(IFLA_MTU, "x")
      .Put(IFLA_LINKINFO, "y");
  Add(bare);
  const NetworkScan scan = std::move(reader_).Finish();
  EXPECT_THAT(scan.interfaces, SizeIs(1));
  EXPECT_THAT(scan.left_out, ElementsAre(HasSubstr("eth2: its MAC")));
}

TEST_F(ScanReaderTest, AMessageThatEndsBeforeItsHeaderIsNone) {
  for (const int type : {RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWNEIGH}) {
    Message<uint16_t> cut(type, 0);
    EXPECT_EQ(Refused(cut), Code::kInternal) << type;
  }
  Message<uint16_t> other(RTM_NEWRULE, 0);
  EXPECT_EQ(Refused(other), Code::kOk);  // nobody's
}

TEST_F(ScanReaderTest, InterfacesAreByIndexAndAnMtuIsAtMostATaps) {
  auto huge = NewLink(1, "eth9");
  ifinfomsg header{};
  header.ifi_index = 7;
  header.ifi_type = ARPHRD_ETHER;
  header.ifi_flags = IFF_NOARP;
  Message<ifinfomsg> message(RTM_NEWLINK, header);
  message.Text(IFLA_IFNAME, "eth7")
      .Put(IFLA_ADDRESS, std::string("\x02\0\0\0\0\x07", 6))
      .Number<uint32_t>(IFLA_MTU, 65535);
  Add(message);
  Add(huge);
  const NetworkScan scan = std::move(reader_).Finish();
  ASSERT_THAT(scan.interfaces, SizeIs(3));
  EXPECT_EQ(scan.interfaces[0].name, "eth9");
  EXPECT_EQ(scan.interfaces[2].mtu, kMaxTapMtu);
  EXPECT_TRUE(scan.interfaces[2].no_arp);
  EXPECT_FALSE(scan.interfaces[2].up);
}

TEST_F(ScanReaderTest, AddressesOfPeersAndOfTheKernel) {
  auto peer = NewAddress(AF_INET6, 128);
  Add(peer.Ip(IFA_LOCAL, "fd00::2").Ip(IFA_ADDRESS, "fd00::1"));
  for (const uint8_t origin : {IFAPROT_KERNEL_LO, IFAPROT_KERNEL_RA, IFAPROT_KERNEL_LL}) {
    auto own = NewAddress(AF_INET6, 64);
    Add(own.Ip(IFA_ADDRESS, "fe80::1").Number(IFA_PROTO, origin));
  }
  auto temporary = NewAddress(AF_INET6, 64);
  Add(temporary.Ip(IFA_ADDRESS, "fd00::3").Number<uint32_t>(IFA_FLAGS, IFA_F_TEMPORARY));
  auto secondary = NewAddress(AF_INET, 16);  // the same bit
  Add(secondary.Ip(IFA_ADDRESS, "10.1.0.3").Number<uint32_t>(IFA_FLAGS, IFA_F_SECONDARY));
  auto taken = NewAddress(AF_INET6, 64);
  Add(taken.Ip(IFA_ADDRESS, "fd00::4").Number<uint32_t>(IFA_FLAGS, IFA_F_DADFAILED));
  const NetworkScan scan = std::move(reader_).Finish();
  ASSERT_THAT(scan.interfaces, SizeIs(1));
  EXPECT_THAT(scan.interfaces[0].addresses,
              ElementsAre(InterfaceAddress{"fd00::2/128", "fd00::1", "", 0},
                          InterfaceAddress{"10.1.0.3/16", "", "", 0}));
  EXPECT_THAT(scan.left_out, ElementsAre(HasSubstr("fd00::4/64: somebody else")));
}

TEST_F(ScanReaderTest, AddressesThatAreNone) {
  auto none = NewAddress(AF_INET, 16);
  EXPECT_EQ(Refused(none), Code::kInternal);
  auto short_one = NewAddress(AF_INET, 16);
  EXPECT_EQ(Refused(short_one.Put(IFA_ADDRESS, "abc")), Code::kInternal);
  auto other_family = NewAddress(AF_INET, 16);
  EXPECT_EQ(Refused(other_family.Ip(IFA_ADDRESS, "fd00::1")), Code::kInternal);
  auto prefix = NewAddress(AF_INET, 33);
  EXPECT_EQ(Refused(prefix.Ip(IFA_ADDRESS, "10.1.0.1")), Code::kInternal);
  auto unknown = NewAddress(AF_UNIX, 0);
  EXPECT_EQ(Refused(unknown), Code::kOk);
}

TEST_F(ScanReaderTest, RoutesThatTheGuestMakesItselfOrThatAreOfOtherTables) {
  for (const uint8_t protocol : {RTPROT_KERNEL, RTPROT_RA, RTPROT_REDIRECT}) {
    rtmsg header = RouteHeader(AF_INET6, 0);
    header.rtm_protocol = protocol;
    Message<rtmsg> route(RTM_NEWROUTE, header);
    Add(route.Number<int>(RTA_OIF, 2));
  }
  rtmsg cloned = RouteHeader(AF_INET6, 0);
  cloned.rtm_flags = RTM_F_CLONED;
  Message<rtmsg> route(RTM_NEWROUTE, cloned);
  Add(route.Number<int>(RTA_OIF, 2));
  Message<rtmsg> other(RTM_NEWROUTE, RouteHeader(AF_INET, 0));
  Add(other.Number<int>(RTA_OIF, 2).Number<uint32_t>(RTA_TABLE, 1000));
  Message<rtmsg> elsewhere(RTM_NEWROUTE, RouteHeader(AF_INET, 0));
  Add(elsewhere.Number<int>(RTA_OIF, 99));
  EXPECT_THAT(Routes(), IsEmpty());
}

TEST_F(ScanReaderTest, WhatARouteCannotBeToldOfIsLeftOutWithTheReason) {
  rtmsg source = RouteHeader(AF_INET6, 0);
  source.rtm_src_len = 64;
  rtmsg service = RouteHeader(AF_INET, 0);
  service.rtm_tos = 8;
  rtmsg type = RouteHeader(AF_INET, 0);
  type.rtm_type = RTN_THROW;
  for (const rtmsg& header : {source, service, type}) {
    Message<rtmsg> route(RTM_NEWROUTE, header);
    Add(route.Number<int>(RTA_OIF, 2));
  }
  Message<rtmsg> encapsulated(RTM_NEWROUTE, RouteHeader(AF_INET, 0));
  Add(encapsulated.Number<int>(RTA_OIF, 2).Put(RTA_ENCAP, ""));
  const NetworkScan scan = std::move(reader_).Finish();
  EXPECT_THAT(scan.routes, IsEmpty());
  EXPECT_THAT(scan.left_out, SizeIs(4));
}

TEST_F(ScanReaderTest, AGatewayMayBeOfTheOtherFamily) {
  const uint16_t family = AF_INET6;
  const std::string via = std::string(reinterpret_cast<const char*>(&family), sizeof(family)) +
                          std::string("\xfe\x80", 2) + std::string(13, '\0') + "\x01";
  Message<rtmsg> route(RTM_NEWROUTE, RouteHeader(AF_INET, 0));
  Add(route.Number<int>(RTA_OIF, 2).Put(RTA_VIA, via));
  for (const size_t length : {size_t{0}, size_t{1}, size_t{2}, size_t{17}}) {
    Message<rtmsg> cut(RTM_NEWROUTE, RouteHeader(AF_INET, 0));
    EXPECT_EQ(Refused(cut.Number<int>(RTA_OIF, 2).Put(RTA_VIA, via.substr(0, length))),
              Code::kInternal)
        << length;
  }
  const auto routes = Routes();
  ASSERT_THAT(routes, SizeIs(1));
  EXPECT_EQ(routes[0].destination, "0.0.0.0/0");
  EXPECT_EQ(routes[0].gateway, "fe80::1");
}

TEST_F(ScanReaderTest, WhatIsRenamedWhileItIsListedIsThereOnce) {
  auto again = NewLink(3, "eth0");
  Add(again);
  const NetworkScan scan = std::move(reader_).Finish();
  ASSERT_THAT(scan.interfaces, SizeIs(1));
  EXPECT_EQ(scan.interfaces[0].index, 2);
  EXPECT_THAT(scan.left_out, ElementsAre(HasSubstr("eth0: another")));
}

TEST_F(ScanReaderTest, OfSeveralNextHopsTheFirst) {
  rtnexthop hop{};
  hop.rtnh_len = sizeof(hop) + 8;
  hop.rtnh_ifindex = 2;
  hop.rtnh_flags = RTNH_F_ONLINK;
  const nlattr gateway = {.nla_len = 8, .nla_type = RTA_GATEWAY};
  std::string one(reinterpret_cast<const char*>(&hop), sizeof(hop));
  one.append(reinterpret_cast<const char*>(&gateway), sizeof(gateway));
  one += std::string("\x0a\x01\0\x01", 4);
  Message<rtmsg> route(RTM_NEWROUTE, RouteHeader(AF_INET, 0));
  Add(route.Put(RTA_MULTIPATH, one + one));
  const NetworkScan scan = std::move(reader_).Finish();
  ASSERT_THAT(scan.routes, SizeIs(1));
  EXPECT_EQ(scan.routes[0].gateway, "10.1.0.1");
  EXPECT_EQ(scan.routes[0].interface, "eth0");
  EXPECT_TRUE(scan.routes[0].on_link);
  EXPECT_THAT(scan.left_out, ElementsAre(HasSubstr("gets the first")));
}

TEST_F(ScanReaderTest, NextHopsAndDestinationsThatAreNone) {
  for (const uint16_t length : {uint16_t{0}, uint16_t{7}, uint16_t{9}, uint16_t{65535}}) {
    rtnexthop hop{};
    hop.rtnh_len = length;
    hop.rtnh_ifindex = 2;
    Message<rtmsg> route(RTM_NEWROUTE, RouteHeader(AF_INET, 0));
    route.Put(RTA_MULTIPATH, std::string(reinterpret_cast<const char*>(&hop), sizeof(hop)));
    EXPECT_EQ(Refused(route), Code::kInternal) << length;
  }
  Message<rtmsg> cut(RTM_NEWROUTE, RouteHeader(AF_INET, 0));
  EXPECT_EQ(Refused(cut.Put(RTA_MULTIPATH, "abc")), Code::kInternal);
  Message<rtmsg> missing(RTM_NEWROUTE, RouteHeader(AF_INET, 16));
  EXPECT_EQ(Refused(missing.Number<int>(RTA_OIF, 2)), Code::kInternal);
  Message<rtmsg> prefix(RTM_NEWROUTE, RouteHeader(AF_INET6, 129));
  EXPECT_EQ(Refused(prefix.Ip(RTA_DST, "fd00::").Number<int>(RTA_OIF, 2)), Code::kInternal);
}

TEST_F(ScanReaderTest, GatewaysComeAfterWhatTheyNeed) {
  Message<rtmsg> first(RTM_NEWROUTE, RouteHeader(AF_INET, 0));
  Add(first.Number<int>(RTA_OIF, 2).Ip(RTA_GATEWAY, "169.254.1.1"));
  Message<rtmsg> second(RTM_NEWROUTE, RouteHeader(AF_INET, 32));
  Add(second.Number<int>(RTA_OIF, 2).Ip(RTA_DST, "169.254.1.1"));
  rtmsg unreachable = RouteHeader(AF_INET6, 64);
  unreachable.rtm_type = RTN_UNREACHABLE;
  Message<rtmsg> third(RTM_NEWROUTE, unreachable);
  Add(third.Number<int>(RTA_OIF, 1).Ip(RTA_DST, "fd99::"));  // IPv6 says lo
  const auto routes = Routes();
  ASSERT_THAT(routes, SizeIs(3));
  EXPECT_EQ(routes[0].destination, "169.254.1.1/32");
  EXPECT_EQ(routes[1].destination, "fd99::/64");
  EXPECT_EQ(routes[1].interface, "");
  EXPECT_EQ(routes[2].destination, "0.0.0.0/0");
  EXPECT_EQ(routes[2].gateway, "169.254.1.1");
}

TEST_F(ScanReaderTest, OnlyPermanentNeighboursWithAMac) {
  ndmsg header{};
  header.ndm_family = AF_INET;
  header.ndm_ifindex = 2;
  header.ndm_state = NUD_PERMANENT;
  const std::string mac("\x02\0\0\0\0\x09", 6);
  Message<ndmsg> permanent(RTM_NEWNEIGH, header);
  Add(permanent.Ip(NDA_DST, "10.1.0.1").Put(NDA_LLADDR, mac));
  Message<ndmsg> no_mac(RTM_NEWNEIGH, header);
  Add(no_mac.Ip(NDA_DST, "10.1.0.2").Put(NDA_LLADDR, "abcd"));
  ndmsg learnt = header;
  learnt.ndm_state = NUD_REACHABLE;
  Message<ndmsg> reachable(RTM_NEWNEIGH, learnt);
  Add(reachable.Ip(NDA_DST, "10.1.0.3").Put(NDA_LLADDR, mac));
  ndmsg proxy = header;
  proxy.ndm_flags = NTF_PROXY;
  Message<ndmsg> proxied(RTM_NEWNEIGH, proxy);
  Add(proxied.Ip(NDA_DST, "10.1.0.4").Put(NDA_LLADDR, mac));
  EXPECT_THAT(std::move(reader_).Finish().neighbours,
              ElementsAre(Neighbour{"eth0", "10.1.0.1", {2, 0, 0, 0, 0, 9}}));
}

TEST_F(ScanReaderTest, MoreNeighboursThanASandboxTakesIsAnError) {
  ndmsg header{};
  header.ndm_family = AF_INET;
  header.ndm_ifindex = 2;
  header.ndm_state = NUD_PERMANENT;
  Message<ndmsg> neighbour(RTM_NEWNEIGH, header);
  neighbour.Ip(NDA_DST, "10.1.0.1").Put(NDA_LLADDR, std::string(6, '\x02'));
  for (size_t i = 0; i < kMaxNeighbours; ++i) {
    Add(neighbour);
  }
  EXPECT_EQ(Refused(neighbour), Code::kResourceExhausted);
}

TEST_F(ScanReaderTest, ReasonsAreBounded) {
  rtmsg header = RouteHeader(AF_INET, 0);
  header.rtm_type = RTN_THROW;
  Message<rtmsg> route(RTM_NEWROUTE, header);
  route.Number<int>(RTA_OIF, 2);
  for (int i = 0; i < 1000; ++i) {
    Add(route);
  }
  const NetworkScan scan = std::move(reader_).Finish();
  EXPECT_THAT(scan.left_out, SizeIs(32));
  EXPECT_EQ(scan.left_out.back(), "and more");
}

}  // namespace
}  // namespace wyvern::runtime
