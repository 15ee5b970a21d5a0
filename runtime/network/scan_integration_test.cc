// Scans of real namespaces, which the tests make themselves.
#include <gmock/gmock.h>
#include <linux/rtnetlink.h>

#include "network/testing/pod.h"

namespace wyvern::runtime {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::UnorderedElementsAre;

class ScanTest : public PodTest {};

std::vector<std::string> Names(const NetworkScan& scan) {
  std::vector<std::string> out;
  for (const Interface& interface : scan.interfaces) {
    out.push_back(interface.name);
  }
  return out;
}

TEST_F(ScanTest, WhatTheKernelMakesByItselfIsLeftOut) {
  const NetworkScan scan = Scan();
  ASSERT_THAT(Names(scan), ElementsAre("eth0"));         // not lo
  EXPECT_THAT(scan.interfaces[0].addresses, IsEmpty());  // not fe80::
  EXPECT_THAT(scan.routes, IsEmpty());
  EXPECT_THAT(scan.neighbours, IsEmpty());
  EXPECT_THAT(scan.left_out, IsEmpty());
}

TEST_F(ScanTest, AnInterfaceWithAllItHas) {
  Ip("link set eth0 address 02:00:00:00:00:05 mtu 1400");
  Ip("addr add 10.1.0.2/16 broadcast 10.1.255.255 dev eth0");
  Ip("addr add 10.9.0.1 peer 10.9.0.2/32 dev eth0 scope link");
  Ip("addr add fd00::2/64 dev eth0 nodad");
  Ip("neigh add 10.1.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent");
  Ip("neigh add fd00::1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent");
  const NetworkScan scan = Scan();
  ASSERT_THAT(scan.interfaces, SizeIs(1));
  const Interface& eth0 = scan.interfaces[0];
  EXPECT_EQ(eth0.kind, "veth");
  EXPECT_EQ(eth0.mac, (MacAddress{2, 0, 0, 0, 0, 5}));
  EXPECT_EQ(eth0.mtu, 1400U);
  EXPECT_TRUE(eth0.up);
  EXPECT_FALSE(eth0.no_arp);
  EXPECT_THAT(
      eth0.addresses,
      UnorderedElementsAre(InterfaceAddress{"10.1.0.2/16", "", "10.1.255.255", RT_SCOPE_UNIVERSE},
                           InterfaceAddress{"10.9.0.1/32", "10.9.0.2", "", RT_SCOPE_LINK},
                           InterfaceAddress{"fd00::2/64", "", "", RT_SCOPE_UNIVERSE}));
  EXPECT_THAT(scan.routes, IsEmpty());  // those of the addresses the guest makes itself
  EXPECT_THAT(scan.neighbours,
              UnorderedElementsAre(Neighbour{"eth0", "10.1.0.1", {2, 0, 0, 0, 0, 1}},
                                   Neighbour{"eth0", "fd00::1", {2, 0, 0, 0, 0, 1}}));
}

TEST_F(ScanTest, RoutesComeInAnOrderInWhichTheyCanBeAdded) {
  Ip("addr add 10.1.0.2/32 dev eth0");
  Ip("addr add fd00::2/128 dev eth0 nodad");
  // As CNI plugins for point-to-point links do: the gateway is reached by a route of its own.
  Ip("route add 169.254.1.1 dev eth0 scope link");
  Ip("route add default via 169.254.1.1 dev eth0 src 10.1.0.2");
  Ip("route add 10.2.0.0/16 via 169.254.1.1 dev eth0 metric 7 mtu 1300");
  Ip("route add 10.3.0.0/16 via 10.99.0.1 dev eth0 onlink");
  Ip("route add unreachable 10.4.0.0/16");
  Ip("route add fd00::1 dev eth0");
  Ip("route add default via fd00::1 dev eth0");
  Ip("route add blackhole fd99::/64");
  const NetworkScan scan = Scan();
  EXPECT_THAT(scan.routes, SizeIs(8));
  EXPECT_THAT(scan.routes, Contains(Route{.destination = "10.2.0.0/16",
                                          .gateway = "169.254.1.1",
                                          .interface = "eth0",
                                          .source = "",
                                          .scope = RT_SCOPE_UNIVERSE,
                                          .metric = 7,
                                          .type = RTN_UNICAST,
                                          .on_link = false,
                                          .mtu = 1300}));
  Ip("route flush table main");
  Ip("-6 route flush table main");
  for (const Route& route : scan.routes) {
    const std::string type = route.type == RTN_UNREACHABLE ? "unreachable "
                             : route.type == RTN_BLACKHOLE ? "blackhole "
                                                           : "";
    Ip("route add " + type + route.destination +
       (route.gateway.empty() ? "" : " via " + route.gateway) +
       (route.interface.empty() ? "" : " dev " + route.interface) +
       (route.source.empty() ? "" : " src " + route.source) +
       (route.metric == 0 ? "" : " metric " + std::to_string(route.metric)) +
       (route.on_link ? " onlink" : "") +
       (route.mtu == 0 ? "" : " mtu " + std::to_string(route.mtu)));
  }
  EXPECT_EQ(Scan().routes, scan.routes);
}

TEST_F(ScanTest, OtherTablesAreNotRead) {
  Ip("addr add 10.1.0.2/16 dev eth0");
  Ip("route add 10.7.0.0/16 dev eth0 table 100");
  EXPECT_THAT(Scan().routes, IsEmpty());
}

TEST_F(ScanTest, WhatAGuestCannotHaveIsToldWithTheReason) {
  Ip("link add br0 type bridge");
  Ip("link add port0 type veth peer name port1");
  Ip("link set port0 master br0");
  const NetworkScan scan = Scan();
  EXPECT_THAT(Names(scan), UnorderedElementsAre("eth0", "br0", "port1"));
  EXPECT_THAT(scan.left_out, ElementsAre("port0: it is a port of br0, which has its packets"));
}

TEST_F(ScanTest, AMacvlanOverAnotherInterfaceOfTheNamespaceIsRefused) {
  if (const auto made = RunIn(pod_, {kIp, "link", "add", "mv0", "link", "eth0", "type", "macvlan"});
      !made.has_value()) {
    GTEST_SKIP() << made.error().message();
  }
  const NetworkScan scan = Scan();
  EXPECT_THAT(Names(scan), ElementsAre("eth0"));
  EXPECT_THAT(scan.left_out, ElementsAre(HasSubstr("mv0: it is on top of eth0")));
}

TEST_F(ScanTest, TwoWithOneMacAreNotToldApart) {
  Ip("link add other type bridge");
  Ip("link set eth0 address 02:00:00:00:00:05");
  Ip("link set other address 02:00:00:00:00:05");
  const NetworkScan scan = Scan();
  EXPECT_THAT(Names(scan), SizeIs(1));
  EXPECT_THAT(scan.left_out, ElementsAre(HasSubstr("the same MAC address")));
}

TEST_F(ScanTest, NamesThatNoGuestCanBeTold) {
  for (const std::string name : {"a\xff\xfe", "a\x01\x1b[31m"}) {
    const auto added = RunIn(pod_, {kIp, "link", "add", "name", name, "type", "bridge"});
    ASSERT_TRUE(added.has_value()) << added.error().message();
  }
  const NetworkScan scan = Scan();
  EXPECT_THAT(Names(scan), ElementsAre("eth0"));
  EXPECT_THAT(scan.left_out, SizeIs(2));
  for (const std::string& line : scan.left_out) {
    EXPECT_THAT(line, HasSubstr("its name cannot be told to a guest"));
    EXPECT_EQ(line.find_first_not_of(
                  " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ?[;:0123456789"),
              std::string::npos)
        << line;
  }
}

TEST_F(ScanTest, MoreInterfacesThanASandboxTakesIsAnError) {
  std::string lines;
  for (size_t i = 1; i < kMaxInterfaces; ++i) {
    lines += "link add many" + std::to_string(i) + " type bridge\n";
  }
  IpBatch(lines);
  EXPECT_THAT(Scan().interfaces, SizeIs(kMaxInterfaces));
  Ip("link add last type bridge");
  const auto scan = ScanNetwork(pod_);
  ASSERT_FALSE(scan.has_value());
  EXPECT_EQ(scan.error().code(), Code::kResourceExhausted);
  EXPECT_THAT(scan.error().message(), HasSubstr("interfaces"));
}

TEST_F(ScanTest, MoreAddressesThanASandboxTakesIsAnError) {
  std::string lines;
  for (size_t i = 0; i <= kMaxAddresses; ++i) {
    lines += "addr add 10.1.0." + std::to_string(i + 1) + "/16 dev eth0\n";
  }
  IpBatch(lines);
  const auto scan = ScanNetwork(pod_);
  ASSERT_FALSE(scan.has_value());
  EXPECT_EQ(scan.error().code(), Code::kResourceExhausted);
}

TEST_F(ScanTest, MoreRoutesThanASandboxTakesIsAnError) {
  std::string lines;
  for (size_t i = 0; i < kMaxRoutes; ++i) {
    lines += "route add 10." + std::to_string(i / 256) + "." + std::to_string(i % 256) +
             ".0/24 dev eth0\n";
  }
  IpBatch(lines);
  EXPECT_THAT(Scan().routes, SizeIs(kMaxRoutes));
  Ip("route add 11.0.0.0/24 dev eth0");
  const auto scan = ScanNetwork(pod_);
  ASSERT_FALSE(scan.has_value());
  EXPECT_EQ(scan.error().code(), Code::kResourceExhausted);
}

TEST_F(ScanTest, ANamespaceThatVanishesTakesWhatWasAtTheOtherEnd) {
  outside_.Reset();  // peer0 goes, and eth0 with it
  for (int i = 0; i < 100 && !Scan().interfaces.empty(); ++i) {
    usleep(20'000);
  }
  EXPECT_THAT(Scan().interfaces, IsEmpty());
}

TEST(ScanErrorTest, WhatIsNoNamespaceIsAnError) {
  EXPECT_FALSE(ScanNetwork(FdRef(-1)).has_value());
  const auto file = Open("/dev/null", O_RDONLY);
  ASSERT_TRUE(file.has_value());
  EXPECT_FALSE(ScanNetwork(*file).has_value());
}

}  // namespace
}  // namespace wyvern::runtime
