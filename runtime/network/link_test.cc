#include "network/link.h"

#include <gmock/gmock.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <net/if_arp.h>

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

Link Ethernet(const std::string& kind, const std::string& name = "eth0") {
  Link link;
  link.interface.index = 5;
  link.interface.name = name;
  link.interface.kind = kind;
  link.interface.mac = {2, 0, 0, 0, 0, 5};
  link.interface.mtu = 1500;
  link.type = ARPHRD_ETHER;
  return link;
}

std::string WhyNot(const Link& link) {
  return WhyNotConnected(link, {&link, 1});
}

TEST(LinkTest, EthernetOfWhicheverKindCanBeConnected) {
  for (const char* kind : {"", "veth", "macvlan", "ipvlan", "bridge", "tun", "vlan", "bond",
                           "dummy", "netkit", "vxlan"}) {
    EXPECT_THAT(WhyNot(Ethernet(kind)), IsEmpty()) << kind;
  }
}

TEST(LinkTest, WhatCarriesNoFramesCannot) {
  Link tunnel = Ethernet("tun");
  tunnel.type = ARPHRD_NONE;
  EXPECT_THAT(WhyNot(tunnel), HasSubstr("no Ethernet frames"));
  tunnel.interface.kind = "wireguard";
  EXPECT_THAT(WhyNot(tunnel), HasSubstr("no Ethernet frames"));
}

TEST(LinkTest, KindsThatAreNotForGuests) {
  for (const char* kind : {"vrf", "ifb", "macvtap", "ipvtap"}) {
    EXPECT_FALSE(WhyNot(Ethernet(kind)).empty()) << kind;
  }
  for (const uint16_t mode : {IPVLAN_MODE_L3, IPVLAN_MODE_L3S}) {
    Link ipvlan = Ethernet("ipvlan");
    ipvlan.ipvlan_mode = mode;
    EXPECT_THAT(WhyNot(ipvlan), HasSubstr("mode l2"));
  }
}

TEST(LinkTest, AMacIsOfOneStation) {
  Link link = Ethernet("netkit");
  link.interface.mac = {};
  EXPECT_THAT(WhyNot(link), HasSubstr("MAC"));
  link.interface.mac = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  EXPECT_THAT(WhyNot(link), HasSubstr("MAC"));
}

TEST(LinkTest, PortsAndWhatIsOnTopOfAnotherCannot) {
  const Link lower = Ethernet("veth");
  Link upper = Ethernet("vlan", "eth0.7");
  upper.interface.index = 7;
  upper.lower = 5;
  const std::vector<Link> all = {lower, upper};
  EXPECT_THAT(WhyNotConnected(upper, all), HasSubstr("on top of eth0"));
  EXPECT_THAT(WhyNotConnected(upper, {&upper, 1}), IsEmpty());  // in another namespace
  EXPECT_THAT(WhyNotConnected(lower, all), IsEmpty());
  upper.interface.kind = "veth";  // its peer
  EXPECT_THAT(WhyNotConnected(upper, all), IsEmpty());
  upper.controller = 5;
  EXPECT_THAT(WhyNotConnected(upper, all), HasSubstr("port of eth0"));
  upper.controller = 99;
  EXPECT_THAT(WhyNotConnected(upper, all), HasSubstr("it is a port,"));
  upper.controller = 0;
  upper.interface.kind = "vlan";
  upper.lower = 7;  // of itself: no kernel says so
  EXPECT_THAT(WhyNotConnected(upper, all), HasSubstr("on top of eth0.7"));
}

TEST(LinkTest, TheMtuIsIpv4sAtLeast) {
  Link link = Ethernet("veth");
  link.interface.mtu = 68;
  EXPECT_THAT(WhyNot(link), IsEmpty());
  link.interface.mtu = 67;
  EXPECT_THAT(WhyNot(link), HasSubstr("68"));
}

TEST(LinkTest, NamesThatAGuestCannotBeTold) {
  for (const std::string& name : std::vector<std::string>{
           "", ".", "..", "a/b", "a b", "a\tb", "a\nb", "a:1", "a\x01", "a\x7f", "lo", "a%d",
           "\xff\xfe", "a\xc3", "\xed\xa0\x80", "0123456789abcdef"}) {
    EXPECT_THAT(WhyNot(Ethernet("veth", name)), HasSubstr("name")) << name;
  }
  for (const std::string& name :
       std::vector<std::string>{"a", "...", "net\xc3\xa9", "0123456789abcde"}) {
    EXPECT_THAT(WhyNot(Ethernet("veth", name)), IsEmpty()) << name;
  }
}

TEST(LinkTest, WhatNobodyPutThereForThePod) {
  Link lo = Ethernet("", "lo");
  lo.flags = IFF_LOOPBACK;
  EXPECT_TRUE(IsNobodys(lo));
  for (const auto& [kind, name] :
       std::vector<std::pair<std::string, std::string>>{{"tun", "wv5"},
                                                        {"tun", TapName(2147483647)},
                                                        {"ipip", "tunl0"},
                                                        {"sit", "sit0"},
                                                        {"vti6", "ip6_vti0"}}) {
    EXPECT_TRUE(IsNobodys(Ethernet(kind, name))) << name;
  }
  for (const auto& [kind, name] :
       std::vector<std::pair<std::string, std::string>>{{"veth", "eth0"},
                                                        {"veth", "wv5"},
                                                        {"tun", "wv"},
                                                        {"tun", "wv5x"},
                                                        {"tun", "xwv5"},
                                                        {"ipip", "mine"},
                                                        {"veth", "tunl0"}}) {
    EXPECT_FALSE(IsNobodys(Ethernet(kind, name))) << name;
  }
}

}  // namespace
}  // namespace wyvern::runtime
