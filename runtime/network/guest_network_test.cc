#include "network/guest_network.h"

#include <gmock/gmock.h>

namespace wyvern::runtime {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

Interface Nic(int index, const std::string& name) {
  Interface it;
  it.index = index;
  it.name = name;
  it.kind = "veth";
  it.mac = {2, 0, 0, 0, 0, static_cast<uint8_t>(index)};
  it.mtu = 1500;
  it.up = true;
  it.addresses.push_back({"10.1.0.2/16", "", "10.1.255.255", 0});
  return it;
}

Route Default(const std::string& interface) {
  Route route;
  route.destination = "0.0.0.0/0";
  route.gateway = "10.1.0.1";
  route.interface = interface;
  route.type = 1;
  return route;
}

NetworkScan Pod() {
  NetworkScan scan;
  scan.interfaces = {Nic(2, "eth0"), Nic(3, "eth1")};
  scan.routes = {Default("eth0")};
  scan.neighbours = {{"eth0", "10.1.0.1", {2, 0, 0, 0, 0, 9}}};
  return scan;
}

TEST(GuestNetworkTest, AllOfAScanIsTold) {
  NetworkScan scan = Pod();
  scan.interfaces[1].no_arp = true;
  scan.interfaces[1].addresses = {{"10.9.0.1/32", "10.9.0.2", "", 253}};
  scan.routes[0].source = "10.1.0.2";
  scan.routes[0].metric = 7;
  scan.routes[0].scope = 253;
  scan.routes[0].on_link = true;
  scan.routes[0].mtu = 1300;
  const auto request = ToSetNetwork(scan);
  ASSERT_EQ(request.interface_size(), 2);
  EXPECT_EQ(request.interface(0).name(), "eth0");
  EXPECT_EQ(request.interface(0).mac(), std::string("\x02\0\0\0\0\x02", 6));
  EXPECT_EQ(request.interface(0).mtu(), 1500U);
  EXPECT_FALSE(request.interface(0).no_arp());
  ASSERT_EQ(request.interface(0).address_size(), 1);
  EXPECT_EQ(request.interface(0).address(0).address(), "10.1.0.2/16");
  EXPECT_EQ(request.interface(0).address(0).broadcast(), "10.1.255.255");
  EXPECT_TRUE(request.interface(1).no_arp());
  EXPECT_EQ(request.interface(1).address(0).peer(), "10.9.0.2");
  EXPECT_EQ(request.interface(1).address(0).scope(), 253U);
  ASSERT_EQ(request.route_size(), 1);
  EXPECT_EQ(request.route(0).destination(), "0.0.0.0/0");
  EXPECT_EQ(request.route(0).gateway(), "10.1.0.1");
  EXPECT_EQ(request.route(0).interface(), "eth0");
  EXPECT_EQ(request.route(0).source(), "10.1.0.2");
  EXPECT_EQ(request.route(0).metric(), 7U);
  EXPECT_EQ(request.route(0).scope(), 253U);
  EXPECT_EQ(request.route(0).type(), 1U);
  EXPECT_TRUE(request.route(0).on_link());
  EXPECT_EQ(request.route(0).mtu(), 1300U);
  ASSERT_EQ(request.neighbour_size(), 1);
  EXPECT_EQ(request.neighbour(0).interface(), "eth0");
  EXPECT_EQ(request.neighbour(0).address(), "10.1.0.1");
  EXPECT_EQ(request.neighbour(0).mac(), std::string("\x02\0\0\0\0\x09", 6));
}

TEST(GuestNetworkTest, OfAnInterfaceThatIsDownNothingIsTold) {
  NetworkScan scan = Pod();
  scan.interfaces[0].up = false;
  Route unreachable = Default("");
  unreachable.type = 7;
  scan.routes.push_back(unreachable);
  const auto request = ToSetNetwork(scan);
  ASSERT_EQ(request.interface_size(), 1);
  EXPECT_EQ(request.interface(0).name(), "eth1");
  ASSERT_EQ(request.route_size(), 1);
  EXPECT_EQ(request.route(0).type(), 7U);
  EXPECT_EQ(request.neighbour_size(), 0);
}

TEST(GuestNetworkTest, TheSameIsNoChange) {
  EXPECT_EQ(Compare(Pod(), Pod()), NetworkChange());
  NetworkScan now = Pod();
  now.left_out.push_back("port0: …");  // the guest does not get it: nothing for it to change
  EXPECT_EQ(Compare(Pod(), now), NetworkChange());
}

TEST(GuestNetworkTest, InterfacesComeAndGo) {
  NetworkScan now = Pod();
  now.interfaces = {Nic(3, "eth1"), Nic(4, "eth2")};
  const NetworkChange change = Compare(Pod(), now);
  EXPECT_THAT(change.went, ElementsAre(2));
  EXPECT_THAT(change.came, ElementsAre(Nic(4, "eth2")));
  EXPECT_TRUE(change.guest);
  const NetworkChange first = Compare(NetworkScan(), Pod());
  EXPECT_THAT(first.came, SizeIs(2));
  EXPECT_THAT(first.went, IsEmpty());
  EXPECT_TRUE(first.guest);
}

TEST(GuestNetworkTest, ADeviceWhoseMacMtuOrKindIsAnotherIsConnectedAnew) {
  for (int what = 0; what < 3; ++what) {
    NetworkScan now = Pod();
    Interface& it = now.interfaces[0];
    it.mac[5] = what == 0 ? 77 : it.mac[5];
    it.mtu = what == 1 ? 1400 : it.mtu;
    it.kind = what == 2 ? "macvlan" : it.kind;
    const NetworkChange change = Compare(Pod(), now);
    EXPECT_THAT(change.went, ElementsAre(2)) << what;
    EXPECT_THAT(change.came, ElementsAre(it)) << what;
    EXPECT_TRUE(change.guest) << what;
  }
}

TEST(GuestNetworkTest, TheRestIsTheGuestsToChange) {
  for (int what = 0; what < 5; ++what) {
    NetworkScan now = Pod();
    switch (what) {
      case 0:
        now.interfaces[0].name = "renamed";
        break;
      case 1:
        now.interfaces[0].up = false;
        break;
      case 2:
        now.interfaces[0].addresses.clear();
        break;
      case 3:
        now.routes.clear();
        break;
      default:
        now.neighbours.clear();
        break;
    }
    const NetworkChange change = Compare(Pod(), now);
    EXPECT_THAT(change.went, IsEmpty()) << what;
    EXPECT_THAT(change.came, IsEmpty()) << what;
    EXPECT_TRUE(change.guest) << what;
  }
}

}  // namespace
}  // namespace wyvern::runtime
