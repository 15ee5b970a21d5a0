#include "agent/network_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/rtnetlink.h>

#include <functional>

namespace wyvern::agent {
namespace {

using testing::HasSubstr;

const std::string kMac("\x02\x00\x00\x00\x00\x01", 6);

// One interface with an address, a route and a neighbour: what a CNI plug-in makes.
v1::SetNetworkRequest Good() {
  v1::SetNetworkRequest request;
  auto* interface = request.add_interface();
  interface->set_mac(kMac);
  interface->set_name("eth0");
  interface->set_mtu(1500);
  interface->add_address()->set_address("10.1.0.2/16");
  auto* route = request.add_route();
  route->set_destination("0.0.0.0/0");
  route->set_gateway("10.1.0.1");
  route->set_interface("eth0");
  route->set_type(RTN_UNICAST);
  auto* neighbour = request.add_neighbour();
  neighbour->set_interface("eth0");
  neighbour->set_address("10.1.0.1");
  neighbour->set_mac(kMac);
  return request;
}

// Of a good request that `change` has changed; empty: it is still good.
std::string ErrorOf(const std::function<void(v1::SetNetworkRequest&)>& change) {
  v1::SetNetworkRequest request = Good();
  change(request);
  const auto network = ParseNetwork(request);
  if (network) {
    return "";
  }
  EXPECT_EQ(network.error().code(), Code::kInvalidArgument);
  return network.error().message();
}

std::string ErrorOfInterface(const std::function<void(v1::NetworkInterface&)>& change) {
  return ErrorOf([&](auto& request) { change(*request.mutable_interface(0)); });
}

std::string ErrorOfRoute(const std::function<void(v1::NetworkRoute&)>& change) {
  return ErrorOf([&](auto& request) { change(*request.mutable_route(0)); });
}

TEST(NetworkAddressTest, WhatIsNoAddressIsNone) {
  for (const char* text : {"", "10.1.0", "10.1.0.256", "010.1.0.1 ", "fd00::g", "fe80::1%eth0",
                           "::1/64", "1:2:3:4:5:6:7:8:9", "10.1.0.2\n"}) {
    EXPECT_FALSE(ParseIpAddress(text)) << text;
  }
  EXPECT_FALSE(ParseIpAddress(std::string("10.1.0.2\0", 9)));
  EXPECT_FALSE(ParseIpAddress(std::string(100, '1')));
  for (const char* text : {"10.1.0.2", "10.1.0.2/", "10.1.0.2/33", "10.1.0.2/-1", "10.1.0.2/8x",
                           "10.1.0.2/ 8", "fd00::/129", "fd00::/256", "/8", "10.1.0.2/8/8"}) {
    EXPECT_FALSE(ParseIpPrefix(text)) << text;
  }
}

TEST(NetworkAddressTest, TextComesBack) {
  for (const char* text : {"0.0.0.0/0", "10.1.0.2/16", "::/0", "fd00::2/64", "2001:db8::1/128"}) {
    const auto prefix = ParseIpPrefix(text);
    ASSERT_TRUE(prefix) << text;
    EXPECT_EQ(ToText(*prefix), text);
  }
  EXPECT_EQ(ToText(IpAddress()), "");
  EXPECT_EQ(ToText(MacAddress{2, 0, 0xff, 0, 0, 9}), "02:00:ff:00:00:09");
}

TEST(NetworkAddressTest, NetworksHaveNothingBehindTheirPrefix) {
  for (const char* text : {"10.0.0.0/7", "10.1.0.2/32", "0.0.0.0/0", "10.128.0.0/9", "::/0",
                           "fd00::/8", "fd00::1/128"}) {
    EXPECT_TRUE(IsNetwork(ParseIpPrefix(text).value())) << text;
  }
  for (const char* text :
       {"10.0.0.0/6", "10.1.0.3/31", "1.0.0.0/0", "10.128.0.0/8", "fd00::1/127", "fd00::/6"}) {
    EXPECT_FALSE(IsNetwork(ParseIpPrefix(text).value())) << text;
  }
}

TEST(NetworkRequestTest, TooManyOfAnythingAreRefused) {
  EXPECT_THAT(ErrorOf([](auto& r) {
                for (int i = 1; i < 65; ++i) {
                  r.add_interface();
                }
              }),
              HasSubstr("interface: 65 of them, at most 64"));
  EXPECT_THAT(ErrorOf([](auto& r) {
                for (int i = 1; i < 4097; ++i) {
                  r.add_route();
                }
              }),
              HasSubstr("route: 4097 of them"));
  EXPECT_THAT(ErrorOf([](auto& r) {
                for (int i = 1; i < 4097; ++i) {
                  r.add_neighbour();
                }
              }),
              HasSubstr("neighbour: 4097 of them"));
  EXPECT_THAT(ErrorOfInterface([](auto& i) {
                for (int n = 1; n < 65; ++n) {
                  i.add_address();
                }
              }),
              HasSubstr("interface[0].address: 65 of them"));
}

TEST(NetworkRequestTest, BadNamesAreRefused) {
  for (const std::string& name :
       {std::string(), std::string("lo"), std::string("."), std::string(".."), std::string("a/b"),
        std::string("a b"), std::string("eth0:1"), std::string("eth%d"), std::string("a\nb"),
        std::string("a\0b", 3), std::string("a\x7f"), std::string(16, 'a')}) {
    EXPECT_THAT(ErrorOfInterface([&](auto& i) { i.set_name(name); }),
                HasSubstr("interface[0].name: "))
        << name;
  }
  for (const char* name : {"a", "...", "fifteen-bytes-x", "eth0.100", "net1@if3", "\xc3\xa9th"}) {
    EXPECT_TRUE(IsInterfaceName(name)) << name;
  }
}

TEST(NetworkRequestTest, BadMacsAndMtusAreRefused) {
  for (const std::string& mac : {std::string(), std::string(5, '\2'), std::string(7, '\2'),
                                 std::string(6, '\0'), std::string(6, '\xff')}) {
    EXPECT_THAT(ErrorOfInterface([&](auto& i) { i.set_mac(mac); }),
                HasSubstr("interface[0].mac: "));
  }
  for (const uint32_t mtu : {0U, 67U, 65536U, 0xffffffffU}) {
    EXPECT_THAT(ErrorOfInterface([&](auto& i) { i.set_mtu(mtu); }),
                HasSubstr("interface[0].mtu: "));
  }
}

TEST(NetworkRequestTest, TwoOfOneNameOrMacAreRefused) {
  EXPECT_THAT(ErrorOf([](auto& r) {
                auto* other = r.add_interface();
                *other = r.interface(0);
                other->set_mac(std::string("\x02\x00\x00\x00\x00\x02", 6));
              }),
              HasSubstr("interface[1].name: 'eth0' is there twice"));
  EXPECT_THAT(ErrorOf([](auto& r) {
                auto* other = r.add_interface();
                *other = r.interface(0);
                other->set_name("eth1");
              }),
              HasSubstr("interface[1].mac: 02:00:00:00:00:01 is there twice"));
}

TEST(NetworkRequestTest, BadAddressesAreRefused) {
  const auto error = [](const std::function<void(v1::NetworkAddress&)>& change) {
    return ErrorOfInterface([&](auto& i) { change(*i.mutable_address(0)); });
  };
  const std::string at = "interface[0].address[0].";
  EXPECT_THAT(error([](auto& a) { a.set_address("10.1.0.2"); }), HasSubstr(at + "address: "));
  EXPECT_THAT(error([](auto& a) { a.set_peer("x"); }), HasSubstr(at + "peer: 'x' is no address"));
  EXPECT_THAT(error([](auto& a) { a.set_peer("fd00::1"); }), HasSubstr(at + "peer: fd00::1 is of"));
  EXPECT_THAT(error([](auto& a) { a.set_broadcast("fd00::1"); }), HasSubstr(at + "broadcast: "));
  EXPECT_THAT(error([](auto& a) { a.set_scope(256); }), HasSubstr(at + "scope: "));
  EXPECT_THAT(error([](auto& a) {
                a.set_address("fd00::1/64");
                a.set_broadcast("10.1.255.255");
              }),
              HasSubstr(at + "broadcast: "));
}

TEST(NetworkRequestTest, ATextThatIsRefusedIsShownShortAndPlain) {
  const std::string error =
      ErrorOfRoute([](auto& r) { r.set_gateway("\x1b[2J" + std::string(100000, 'x')); });
  EXPECT_LT(error.size(), 200U);
  EXPECT_EQ(error.find('\x1b'), std::string::npos);
}

TEST(NetworkRequestTest, BadRoutesAreRefused) {
  EXPECT_THAT(ErrorOfRoute([](auto& r) { r.set_destination("10.1.0.2/16"); }),
              HasSubstr("route[0].destination: 10.1.0.2/16 has bits behind"));
  EXPECT_THAT(ErrorOfRoute([](auto& r) { r.set_destination(""); }),
              HasSubstr("route[0].destination: "));
  EXPECT_THAT(ErrorOfRoute([](auto& r) { r.set_gateway("10.1.0.1/16"); }),
              HasSubstr("route[0].gateway: "));
  EXPECT_THAT(ErrorOfRoute([](auto& r) { r.set_destination("::/0"); }),
              HasSubstr("route[0].gateway: 10.1.0.1 is of the other family"));
  EXPECT_THAT(ErrorOfRoute([](auto& r) { r.set_source("fd00::1"); }),
              HasSubstr("route[0].source: "));
  EXPECT_THAT(ErrorOfRoute([](auto& r) { r.set_interface("eth1"); }),
              HasSubstr("route[0].interface: 'eth1' is not among"));
  EXPECT_THAT(ErrorOfRoute([](auto& r) { r.clear_interface(); }),
              HasSubstr("route[0].interface: "));
  EXPECT_THAT(ErrorOfRoute([](auto& r) { r.set_scope(1000); }), HasSubstr("route[0].scope: "));
  for (const uint32_t type : {0U, uint32_t{RTN_LOCAL}, uint32_t{RTN_THROW}, 257U}) {
    EXPECT_THAT(ErrorOfRoute([&](auto& r) { r.set_type(type); }), HasSubstr("route[0].type: "));
  }
  EXPECT_THAT(ErrorOfRoute([](auto& r) { r.set_type(RTN_BLACKHOLE); }),
              HasSubstr("route[0].type: a route that goes nowhere"));
}

TEST(NetworkRequestTest, BadNeighboursAreRefused) {
  const auto error = [](const std::function<void(v1::NetworkNeighbour&)>& change) {
    return ErrorOf([&](auto& request) { change(*request.mutable_neighbour(0)); });
  };
  EXPECT_THAT(error([](auto& n) { n.set_interface("lo"); }), HasSubstr("neighbour[0].interface: "));
  EXPECT_THAT(error([](auto& n) { n.set_address(""); }),
              HasSubstr("neighbour[0].address: missing"));
  EXPECT_THAT(error([](auto& n) { n.set_address("::"); }), HasSubstr("neighbour[0].address: "));
  EXPECT_THAT(error([](auto& n) { n.set_mac("x"); }), HasSubstr("neighbour[0].mac: 1 bytes"));
}

TEST(NetworkRequestTest, WhatIsParsedIsAsTheKernelShowsIt) {
  v1::SetNetworkRequest request = Good();
  auto* address = request.mutable_interface(0)->add_address();
  address->set_address("fd00::2/64");
  address->set_scope(RT_SCOPE_LINK);
  address = request.mutable_interface(0)->add_address();
  address->set_address("10.2.0.1/32");
  address->set_peer("10.2.0.1");
  address->set_broadcast("0.0.0.0");
  auto* route = request.add_route();
  route->set_destination("fd01::/16");
  route->set_type(RTN_UNREACHABLE);
  route->set_scope(RT_SCOPE_LINK);
  const auto network = ParseNetwork(request);
  ASSERT_TRUE(network) << network.error().message();
  const auto& addresses = network->interfaces.at(0).addresses;
  EXPECT_EQ(addresses.at(1).scope, 0);
  EXPECT_FALSE(addresses.at(2).peer.is_set());
  EXPECT_FALSE(addresses.at(2).broadcast.is_set());
  EXPECT_EQ(network->routes.at(0).route.metric, 0U);
  EXPECT_EQ(network->routes.at(1).route.metric, 1024U);
  EXPECT_EQ(network->routes.at(1).route.scope, 0);
}

TEST(NetworkRequestTest, Ipv4MayGoByAGatewayOfIpv6) {
  EXPECT_EQ(ErrorOfRoute([](auto& r) { r.set_gateway("fe80::1"); }), "");
}

TEST(NetworkRequestTest, NothingIsANetworkToo) {
  EXPECT_TRUE(ParseNetwork(v1::SetNetworkRequest()));
}

}  // namespace
}  // namespace wyvern::agent
