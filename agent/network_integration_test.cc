// SetNetwork against the real kernel, in a network namespace of each test's own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if_addr.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "agent/network.h"
#include "agent/testing/agent_process.h"
#include "agent/testing/network_namespace.h"
#include "base/unix_socket.h"
#include "ttrpc/client.h"
#include "ttrpc/server.h"

namespace wyvern::agent {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string BytesOf(const MacAddress& mac) {
  return {mac.begin(), mac.end()};
}

class NetworkTest : public testing::Test {
 protected:
  void SetUp() override {
    guest = NetworkNamespace::Enter();
    if (!guest) {
      GTEST_SKIP() << "needs root, for a network namespace";
    }
    // Its end is an event at some time later, which no test here is about.
    (void)WriteFile("/proc/sys/net/ipv6/conf/default/dad_transmits", "0");
    guest->AddVeth("eth0", MacOf(1));
    guest->AddVeth("eth1", MacOf(2));
  }

  v1::NetworkInterface& AddInterface(uint8_t number, const std::string& name,
                                     std::initializer_list<const char*> addresses = {}) {
    auto* interface = request.add_interface();
    interface->set_mac(BytesOf(MacOf(number)));
    interface->set_name(name);
    interface->set_mtu(1500);
    for (const char* address : addresses) {
      interface->add_address()->set_address(address);
    }
    return *interface;
  }

  v1::NetworkRoute& AddRoute(const std::string& destination, const std::string& gateway,
                             const std::string& interface) {
    auto* route = request.add_route();
    route->set_destination(destination);
    route->set_gateway(gateway);
    route->set_interface(interface);
    route->set_type(interface.empty() ? RTN_BLACKHOLE : RTN_UNICAST);
    return *route;
  }

  v1::NetworkNeighbour& AddNeighbour(const std::string& interface, const std::string& address,
                                     uint8_t number) {
    auto* neighbour = request.add_neighbour();
    neighbour->set_interface(interface);
    neighbour->set_address(address);
    neighbour->set_mac(BytesOf(MacOf(number)));
    return *neighbour;
  }

  Result<> Set() {
    auto wanted = ParseNetwork(request);
    return wanted ? setter.Set(*wanted) : tl::unexpected(std::move(wanted).error());
  }

  // Empty: it was done.
  std::string ErrorOfSet() {
    const auto set = Set();
    return set ? "" : set.error().message();
  }

  // Whether the namespace has all of the request.
  testing::AssertionResult HasAll() {
    const auto wanted = ParseNetwork(request);
    std::map<std::string, int> numbers = {{"lo", 1}, {"", 0}};
    for (const WantedInterface& interface : wanted->interfaces) {
      const auto link = guest->Find(interface.name);
      if (!link || link->mac != interface.mac || link->mtu != interface.mtu ||
          (link->flags & IFF_UP) == 0 || ((link->flags & IFF_NOARP) != 0) != interface.no_arp) {
        return testing::AssertionFailure() << interface.name;
      }
      numbers[interface.name] = link->index;
      for (LinkAddress address : interface.addresses) {
        address.link = link->index;
        if (!guest->Has(address)) {
          return testing::AssertionFailure() << ToText(address.local);
        }
      }
    }
    for (auto [interface, route] : wanted->routes) {
      route.link = numbers[interface];
      if (!guest->Has(route)) {
        return testing::AssertionFailure() << "route " << ToText(route.destination);
      }
    }
    for (auto [interface, neighbour] : wanted->neighbours) {
      neighbour.link = numbers[interface];
      if (!guest->Has(neighbour)) {
        return testing::AssertionFailure() << "neighbour " << ToText(neighbour.address);
      }
    }
    return testing::AssertionSuccess();
  }

  // All that a request can have, in the ways that CNI plug-ins have it.
  void FillRequest() {
    auto& first = AddInterface(1, "eth0", {"10.1.0.2/16", "10.1.0.3/16", "fd00::2/64"});
    first.mutable_address(0)->set_broadcast("10.1.255.255");
    auto& second = AddInterface(2, "net1", {"169.254.9.1/32", "10.9.0.1/24", "fd09::1/128"});
    second.set_mtu(1280);
    second.set_no_arp(true);
    second.mutable_address(0)->set_scope(RT_SCOPE_LINK);
    second.mutable_address(1)->set_peer("10.9.0.9");
    second.mutable_address(2)->set_peer("fd09::9");
    AddRoute("169.254.1.1/32", "", "eth0").set_scope(RT_SCOPE_LINK);
    AddRoute("0.0.0.0/0", "169.254.1.1", "eth0").set_source("10.1.0.3");
    AddRoute("0.0.0.0/0", "10.9.0.9", "net1").set_metric(200);
    AddRoute("::/0", "fd00::1", "eth0");
    AddRoute("10.20.0.0/16", "10.77.0.1", "net1").set_on_link(true);
    AddRoute("10.30.0.0/16", "10.1.0.1", "eth0").set_mtu(1400);
    AddRoute("10.40.0.0/16", "fe80::1", "eth0");
    AddRoute("fd30::/16", "fd00::1", "eth0").set_metric(7);
    AddRoute("10.66.0.0/16", "", "");
    AddRoute("fd66::/16", "", "").set_type(RTN_UNREACHABLE);
    AddNeighbour("eth0", "169.254.1.1", 99);
    AddNeighbour("eth0", "fd00::1", 99);
  }

  std::unique_ptr<NetworkNamespace> guest;
  NetworkSetter setter;
  v1::SetNetworkRequest request;
};

TEST_F(NetworkTest, AllThatIsAskedForIsThere) {
  FillRequest();
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_TRUE(HasAll());
  EXPECT_FALSE(guest->Find("eth1"));
  // /proc/net/if_inet6: address, index, length, scope, flags, name. Neither tentative (40) nor failed (08).
  EXPECT_THAT(NetworkNamespace::Proc("if_inet6"),
              testing::ContainsRegex("fd000000000000000000000000000002 .. 40 00 82 +eth0"));
  EXPECT_THAT(NetworkNamespace::Proc("route"), HasSubstr("eth0\t00000000\t0101FEA9"));
  EXPECT_THAT(NetworkNamespace::Proc("arp"),
              testing::ContainsRegex("169.254.1.1 +0x1 +0x6 +02:00:00:00:00:63 .* eth0"));
}

// Messages of the kernel about changes in the namespace.
class Changes {
 public:
  Changes() : fd_(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE)) {
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    address.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR |
                        RTMGRP_IPV6_ROUTE;
    EXPECT_EQ(bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }

  // How many come until it was quiet for that long.
  int CountUntilQuiet(std::chrono::milliseconds quiet) {
    int count = 0;
    char first = 0;
    pollfd source{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    while (count < 10000 && poll(&source, 1, static_cast<int>(quiet.count())) > 0) {
      count += recv(fd_.get(), &first, 1, 0) > 0 ? 1 : 0;
    }
    return count;
  }

 private:
  UniqueFd fd_;
};

TEST_F(NetworkTest, TheSameAgainChangesNothing) {
  FillRequest();
  Changes changes;
  ASSERT_EQ(ErrorOfSet(), "");
  EXPECT_GT(changes.CountUntilQuiet(1500ms), 0);
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_EQ(changes.CountUntilQuiet(200ms), 0);
  EXPECT_TRUE(HasAll());
}

TEST_F(NetworkTest, NamesAreExchangedAlsoWhileTheyAreUp) {
  AddInterface(1, "eth0", {"10.1.0.2/16"});
  AddInterface(2, "eth1", {"10.2.0.2/16"});
  AddRoute("0.0.0.0/0", "10.1.0.1", "eth0");
  ASSERT_EQ(ErrorOfSet(), "");
  request.mutable_interface(0)->set_name("eth1");
  request.mutable_interface(1)->set_name("eth0");
  request.mutable_route(0)->set_interface("eth1");
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_TRUE(HasAll());
}

TEST_F(NetworkTest, NamesGoRoundInACircle) {
  constexpr int kDevices = 8;
  for (uint8_t i = 2; i < kDevices; ++i) {
    guest->AddVeth("eth" + std::to_string(i), MacOf(static_cast<uint8_t>(i + 1)));
  }
  for (uint8_t i = 0; i < kDevices; ++i) {
    AddInterface(static_cast<uint8_t>(i + 1), "eth" + std::to_string((i + 1) % kDevices));
  }
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_TRUE(HasAll());
}

TEST_F(NetworkTest, AnInterfaceThatIsNoMoreAskedForGivesUpWhatItHad) {
  AddInterface(1, "eth0", {"10.1.0.2/16", "fd00::2/64"});
  AddRoute("0.0.0.0/0", "10.1.0.1", "eth0");
  AddNeighbour("eth0", "10.1.0.1", 99);
  ASSERT_EQ(ErrorOfSet(), "");
  const int index = guest->Find("eth0")->index;
  // As a plug-in that replaces an interface: the same name and addresses, another device.
  request.mutable_interface(0)->set_mac(BytesOf(MacOf(2)));
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_TRUE(HasAll());
  const auto old = guest->Find("wvtmp" + std::to_string(index));
  ASSERT_TRUE(old);
  EXPECT_EQ(old->mac, MacOf(1));
  EXPECT_EQ(old->flags & IFF_UP, 0U);
  EXPECT_THAT(NetworkNamespace::Proc("if_inet6"), Not(HasSubstr(old->name)));
}

TEST_F(NetworkTest, TheNameOfWhatAContainerMadeIsNotTaken) {
  guest->AddBridge("net1", MacOf(50));
  AddInterface(1, "eth0", {"10.1.0.2/16"});
  AddInterface(2, "net1", {"10.2.0.2/16"});
  const auto set = Set();
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(set.error().sys_errno(), EEXIST);
  EXPECT_THAT(set.error().message(), HasSubstr("renaming the interface eth1 to net1"));
  EXPECT_EQ(guest->Find("net1")->mac, MacOf(50));
  EXPECT_THAT(NetworkNamespace::Proc("fib_trie"), HasSubstr("10.2.0.2"));  // under its old name
}

TEST_F(NetworkTest, WhatIsNoMoreAskedForGoesAndWhatContainersMadeStays) {
  FillRequest();
  ASSERT_EQ(ErrorOfSet(), "");
  const int eth0 = guest->Find("eth0")->index;
  guest->AddBridge("docker0", MacOf(50));
  const Route theirs{.link = eth0,
                     .destination = *ParseIpPrefix("10.88.0.0/16"),
                     .gateway = *ParseIpAddress("10.1.0.1"),
                     .type = RTN_UNICAST};
  const LinkAddress other{.link = eth0, .local = *ParseIpPrefix("10.88.0.1/32")};
  ASSERT_TRUE(guest->socket().Change(AddAddress(other)));
  ASSERT_TRUE(guest->socket().Change(agent::AddRoute(theirs, NLM_F_EXCL)));

  const auto before = ParseNetwork(request);
  request.clear_route();
  request.clear_neighbour();
  request.mutable_interface()->DeleteSubrange(1, 1);
  request.mutable_interface(0)->mutable_address()->DeleteSubrange(1, 2);
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_TRUE(HasAll());
  EXPECT_TRUE(guest->Find("docker0"));
  EXPECT_TRUE(guest->Has(theirs));
  EXPECT_TRUE(guest->Has(other));
  for (auto [interface, route] : before->routes) {
    route.link = interface.empty() ? 0 : eth0;
    EXPECT_FALSE(guest->Has(route)) << ToText(route.destination);
  }
  EXPECT_THAT(NetworkNamespace::Proc("if_inet6"), Not(HasSubstr("fd0")));
  EXPECT_THAT(NetworkNamespace::Proc("arp"), Not(HasSubstr("169.254.1.1")));
  EXPECT_THAT(NetworkNamespace::Proc("fib_trie"), Not(HasSubstr("10.1.0.3")));
  EXPECT_EQ(guest->Find("net1")->flags & IFF_UP, 0U);
}

TEST_F(NetworkTest, WhatAContainerTookAwayIsPutBack) {
  FillRequest();
  ASSERT_EQ(ErrorOfSet(), "");
  const int eth0 = guest->Find("eth0")->index;
  // With it all routes of IPv4 go.
  ASSERT_TRUE(guest->socket().Change(SetLinkFlags(eth0, 0, IFF_UP)));
  ASSERT_TRUE(guest->socket().Change(RenameLink(eth0, "x")));
  ASSERT_TRUE(guest->socket().Change(SetLinkMtu(eth0, 1400)));
  EXPECT_FALSE(HasAll());
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_TRUE(HasAll());
}

TEST_F(NetworkTest, WhatChangesIsChanged) {
  FillRequest();
  ASSERT_EQ(ErrorOfSet(), "");
  const int eth0 = guest->Find("eth0")->index;
  const auto before = ParseNetwork(request);
  request.mutable_interface(0)->set_mtu(9000);
  request.mutable_interface(0)->mutable_address(0)->set_broadcast("10.1.255.254");
  request.mutable_interface(1)->set_no_arp(false);
  request.mutable_route(1)->set_source("10.1.0.2");
  request.mutable_route(3)->set_gateway("fd00::7");
  request.mutable_neighbour(0)->set_mac(BytesOf(MacOf(98)));
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_TRUE(HasAll());
  for (const size_t changed : {size_t{1}, size_t{3}}) {
    Route old = before->routes.at(changed).route;
    old.link = eth0;
    EXPECT_FALSE(guest->Has(old)) << changed;
  }
}

TEST_F(NetworkTest, WhatSomebodyMadeBeforeUsIsReplaced) {
  AddInterface(1, "eth0", {"10.1.0.2/16"}).mutable_address(0)->set_broadcast("10.1.255.255");
  AddRoute("10.20.0.0/16", "10.1.0.1", "eth0");
  AddNeighbour("eth0", "10.1.0.1", 99);
  const int eth0 = guest->Find("eth0")->index;
  ASSERT_TRUE(guest->socket().Change(SetLinkFlags(eth0, IFF_UP, IFF_UP)));
  const LinkAddress address{.link = eth0, .local = *ParseIpPrefix("10.1.0.2/16")};
  ASSERT_TRUE(guest->socket().Change(AddAddress(address)));
  const Route route{.link = eth0,
                    .destination = *ParseIpPrefix("10.20.0.0/16"),
                    .gateway = *ParseIpAddress("10.1.0.9"),
                    .type = RTN_UNICAST};
  ASSERT_TRUE(guest->socket().Change(agent::AddRoute(route, NLM_F_EXCL)));
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_TRUE(HasAll());
  EXPECT_FALSE(guest->Has(route));
  EXPECT_FALSE(guest->Has(address));
}

TEST_F(NetworkTest, SeveralWaysToOnePlaceAreAllThere) {
  AddInterface(1, "eth0", {"10.1.0.2/16"});
  AddInterface(2, "eth1", {"10.2.0.2/16"});
  AddRoute("10.20.0.0/16", "10.1.0.1", "eth0");
  AddRoute("10.20.0.0/16", "10.2.0.1", "eth1");
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(ErrorOfSet(), "");
    EXPECT_TRUE(HasAll());
  }
  request.clear_route();
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_THAT(NetworkNamespace::Proc("route"), Not(HasSubstr("0000140A")));
}

// The kernel makes one route of them, with several ways.
TEST_F(NetworkTest, SeveralWaysOfIpv6AreOneRouteAndAllThere) {
  AddInterface(1, "eth0", {"fd01::2/64"});
  AddInterface(2, "eth1", {"fd02::2/64"});
  AddRoute("fd20::/16", "fd01::1", "eth0");
  AddRoute("fd20::/16", "fd02::1", "eth1");
  const std::string first = "fd010000000000000000000000000001";
  const std::string second = "fd020000000000000000000000000001";
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(ErrorOfSet(), "");
    EXPECT_THAT(NetworkNamespace::Proc("ipv6_route"), HasSubstr(first));
    EXPECT_THAT(NetworkNamespace::Proc("ipv6_route"), HasSubstr(second));
  }
  request.mutable_route()->RemoveLast();
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_TRUE(HasAll());
  EXPECT_THAT(NetworkNamespace::Proc("ipv6_route"), Not(HasSubstr(second)));
}

TEST_F(NetworkTest, AMissingDeviceIsToldAndTheRestIsDone) {
  AddInterface(9, "net9", {"10.9.0.2/16"});
  AddInterface(1, "eth0", {"10.1.0.2/16"});
  AddRoute("10.20.0.0/16", "10.9.0.1", "net9");
  AddRoute("0.0.0.0/0", "10.1.0.1", "eth0");
  AddNeighbour("net9", "10.9.0.1", 99);
  const auto set = Set();
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code(), Code::kNotFound);
  EXPECT_THAT(set.error().message(),
              testing::StrEq("interface[0] net9: no network device of the guest has the MAC "
                             "02:00:00:00:00:09"));
  request.mutable_interface()->DeleteSubrange(0, 1);
  request.mutable_route()->DeleteSubrange(0, 1);
  request.clear_neighbour();
  EXPECT_TRUE(HasAll());
}

TEST_F(NetworkTest, WhatTheKernelRefusesIsToldInItsWordsAndTheRestIsDone) {
  AddInterface(1, "eth0", {"10.1.0.2/16", "ff02::9/64"});
  AddRoute("10.20.0.0/16", "192.0.2.1", "eth0");
  AddRoute("0.0.0.0/0", "10.1.0.1", "eth0");
  AddRoute("10.30.0.0/16", "192.0.2.1", "eth0");
  auto set = Set();
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code(), Code::kFailedPrecondition);
  request.mutable_interface(0)->mutable_address()->RemoveLast();
  set = Set();
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(set.error().message(),
              testing::StrEq("route[0] 10.20.0.0/16 by 192.0.2.1: Nexthop has invalid gateway: "
                             "Network is unreachable (and 1 more)"));
  request.mutable_route()->DeleteSubrange(2, 1);
  request.mutable_route()->DeleteSubrange(0, 1);
  EXPECT_TRUE(HasAll());
}

TEST_F(NetworkTest, ADeviceThatWentLeavesNothingBehind) {
  FillRequest();
  ASSERT_EQ(ErrorOfSet(), "");
  ifinfomsg header{};
  header.ifi_index = guest->Find("net1")->index;
  ASSERT_TRUE(guest->socket().Change(NetlinkRequest(RTM_DELLINK, 0, header)));
  request.Clear();
  AddInterface(1, "eth0", {"10.1.0.2/16"});
  EXPECT_EQ(ErrorOfSet(), "");
  request.Clear();
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_EQ(guest->Find("eth0")->flags & IFF_UP, 0U);
  EXPECT_THAT(NetworkNamespace::Proc("fib_trie"), Not(HasSubstr("10.1.0.2")));
}

TEST_F(NetworkTest, AsManyRoutesAsThereMayBe) {
  AddInterface(1, "eth0", {"10.1.0.2/16"});
  for (int i = 0; i < kMaxRoutes; ++i) {
    AddRoute("100." + std::to_string(64 + i / 256) + "." + std::to_string(i % 256) + ".0/24",
             "10.1.0.1", "eth0");
  }
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_EQ(std::ranges::count(NetworkNamespace::Proc("route"), '\n'), kMaxRoutes + 2);
  EXPECT_EQ(ErrorOfSet(), "");
  request.clear_route();
  EXPECT_EQ(ErrorOfSet(), "");
  EXPECT_EQ(std::ranges::count(NetworkNamespace::Proc("route"), '\n'), 2);
}

// The call itself: a server whose threads are in the namespace.
TEST_F(NetworkTest, TheCallIsDoneBesideTheLoopAndAnswered) {
  const auto loop = Must(EventLoop::Create());
  auto network = std::make_unique<GuestNetwork>(*loop, true);
  auto server = Must(ttrpc::Server::Create(*loop));
  server->RegisterUnary<v1::SetNetworkRequest, v1::Empty>(
      AgentProcess::kService, "SetNetwork",
      [&](const auto& message, const auto&, const auto& responder) {
        network->Set(message, responder);
      });
  SocketPair pair = Must(MakeSocketPair(SOCK_STREAM));
  ASSERT_TRUE(server->Adopt(std::move(pair.first)));
  const auto client = Must(ttrpc::Client::Create(std::move(pair.second), {}));
  std::thread thread([&] { (void)loop->Run(); });
  const auto call = [&] {
    return client->Call<v1::SetNetworkRequest, v1::Empty>(AgentProcess::kService, "SetNetwork",
                                                          request, {.timeout = 30s});
  };
  FillRequest();
  EXPECT_TRUE(call());
  EXPECT_TRUE(HasAll());
  request.mutable_interface(0)->set_mtu(1);
  EXPECT_EQ(CodeOf(call()), Code::kInvalidArgument);
  request.mutable_interface(0)->set_mtu(1500);
  request.mutable_interface(0)->set_mac(BytesOf(MacOf(77)));
  EXPECT_EQ(CodeOf(call()), Code::kNotFound);
  loop->Stop();
  thread.join();
  client->CloseAndWait();
  server.reset();
  network.reset();
}

TEST(NetworkAgentTest, ATestsAgentChecksAndLeavesTheMachineAlone) {
  if (!WhyNotHere().empty()) {
    GTEST_SKIP() << WhyNotHere();
  }
  AgentProcess agent;
  v1::SetNetworkRequest request;
  auto* interface = request.add_interface();
  interface->set_mac(BytesOf(MacOf(1)));
  interface->set_name("eth0");
  interface->set_mtu(1500);
  EXPECT_TRUE(agent.Call<v1::Empty>("SetNetwork", request));
  interface->set_name("a/b");
  EXPECT_EQ(CodeOf(agent.Call<v1::Empty>("SetNetwork", request)), Code::kInvalidArgument);
}

}  // namespace
}  // namespace wyvern::agent
