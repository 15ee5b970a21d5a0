// Interfaces given to a guest, of which the test plays the part at the taps: frames both ways, and what is left afterwards.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <chrono>
#include <cstring>

#include "network/connect.h"
#include "network/redirect.h"
#include "network/testing/pod.h"

namespace wyvern::runtime {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using testing::HasSubstr;
using testing::SizeIs;

constexpr size_t kVnetHeader = 10;  // struct virtio_net_hdr, a tap's default
constexpr milliseconds kSoon{5000};
constexpr milliseconds kSilence{200};

std::string Be16(unsigned value) {
  return {static_cast<char>(value >> 8U), static_cast<char>(value & 0xffU)};
}

// Broadcast: no stack looks at whose it is before the taps do.
std::string FrameOf(unsigned ethertype, const std::string& payload) {
  return std::string(6, '\xff') + std::string("\x02\0\0\0\0\x77", 6) + Be16(ethertype) + payload;
}

// As it was on the wire: the kernel takes a VLAN tag out of the frame and tells it beside.
std::string WithTag(std::string frame, const tpacket_auxdata& auxiliary) {
  if ((auxiliary.tp_status & TP_STATUS_VLAN_VALID) != 0) {
    frame.insert(12, Be16(auxiliary.tp_vlan_tpid) + Be16(auxiliary.tp_vlan_tci));
  }
  return frame;
}

class ConnectTest : public PodTest {
 protected:
  void SetUp() override {
    PodTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) {
      return;
    }
    Listen(outside_, "peer0");
  }

  // Raw frames of that interface, from now on.
  void Listen(FdRef network_namespace, const char* interface) {
    const auto opened = InNetworkNamespace(network_namespace, [&]() -> Result<> {
      wire_ =
          UniqueFd(socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL)));
      sockaddr_ll address{};
      address.sll_family = AF_PACKET;
      address.sll_protocol = htons(ETH_P_ALL);
      address.sll_ifindex = static_cast<int>(if_nametoindex(interface));
      const int on = 1;
      if (!wire_.valid() ||
          bind(wire_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
          setsockopt(wire_.get(), SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on)) != 0) {
        return SysError("a packet socket");
      }
      return {};
    });
    ASSERT_TRUE(opened.has_value()) << opened.error().message();
  }

  ConnectedInterface Connect(unsigned queues = 1, const std::string& name = "eth0") {
    auto connected = ConnectInterface(pod_, Find(name), queues);
    EXPECT_TRUE(connected.has_value()) << connected.error().message();
    return connected.has_value() ? *std::move(connected) : ConnectedInterface{};
  }

  // Of this frame; others that come by are passed over.
  bool ReachesTap(const ConnectedInterface& connected, const std::string& frame) {
    EXPECT_EQ(send(wire_.get(), frame.data(), frame.size(), 0), static_cast<ssize_t>(frame.size()));
    std::vector<pollfd> polled;
    for (const UniqueFd& tap : connected.taps) {
      polled.push_back({.fd = tap.get(), .events = POLLIN, .revents = 0});
    }
    const auto until = steady_clock::now() + kSoon;
    while (steady_clock::now() < until) {
      poll(polled.data(), polled.size(), 100);
      for (const pollfd& one : polled) {
        std::array<char, 70000> bytes{};
        const ssize_t got = read(one.fd, bytes.data(), bytes.size());
        if (got > static_cast<ssize_t>(kVnetHeader) &&
            std::string_view(bytes.data() + kVnetHeader, static_cast<size_t>(got) - kVnetHeader) ==
                frame) {
          return true;
        }
      }
    }
    return false;
  }

  bool ReachesWire(FdRef tap, const std::string& frame, milliseconds limit = kSoon) {
    const std::string packet = std::string(kVnetHeader, '\0') + frame;
    EXPECT_EQ(write(tap.get(), packet.data(), packet.size()), static_cast<ssize_t>(packet.size()));
    const auto until = steady_clock::now() + limit;
    while (steady_clock::now() < until) {
      pollfd polled = {.fd = wire_.get(), .events = POLLIN, .revents = 0};
      poll(&polled, 1, 100);
      if (NextOnWire() == frame) {
        return true;
      }
    }
    return false;
  }

  // Empty: nothing. What peer0 sends itself is not looked at.
  std::string NextOnWire() {
    std::array<char, 70000> bytes{};
    std::array<char, 256> control{};
    sockaddr_ll from{};
    iovec part = {.iov_base = bytes.data(), .iov_len = bytes.size()};
    msghdr message{};
    message.msg_name = &from;
    message.msg_namelen = sizeof(from);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = recvmsg(wire_.get(), &message, 0);
    if (got <= 0 || from.sll_pkttype == PACKET_OUTGOING) {
      return {};
    }
    tpacket_auxdata auxiliary{};
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA) {
        std::memcpy(&auxiliary, CMSG_DATA(c), sizeof(auxiliary));
      }
    }
    return WithTag(std::string(bytes.data(), static_cast<size_t>(got)), auxiliary);
  }

  IngressOwner OwnerOf(int index) {
    IngressOwner owner = IngressOwner::kNobody;
    const auto looked = InNetworkNamespace(pod_, [&]() -> Result<> {
      WV_TRY(Netlink netlink, Netlink::Open());
      WV_TRY(owner, LookAtIngress(netlink, index));
      return {};
    });
    EXPECT_TRUE(looked.has_value()) << looked.error().message();
    return owner;
  }

  bool HasTap(const std::string& name) {
    bool has = false;
    EXPECT_TRUE(InNetworkNamespace(pod_, [&]() -> Result<> {
                  has = if_nametoindex(name.c_str()) != 0;
                  return {};
                }).has_value());
    return has;
  }

  UniqueFd wire_;
};

struct FrameCase {
  const char* name;
  std::string frame;
};

std::vector<FrameCase> Frames() {
  return {
      {"ARP",
       FrameOf(ETH_P_ARP, std::string("\0\x01\x08\0\x06\x04\0\x01", 8) + std::string(20, 'a'))},
      {"IPv4", FrameOf(ETH_P_IP, std::string("\x45\0\0\x1c\0\x01\0\0\x40\x11\0\0", 12) +
                                     std::string(16, '4'))},
      {"IPv6",
       FrameOf(ETH_P_IPV6, std::string("\x60\0\0\0\0\x08\x3b\x40", 8) + std::string(40, '6'))},
      {"an ethertype that nobody knows", FrameOf(0x88b5, "experiment")},
      {"a VLAN", FrameOf(ETH_P_8021Q, Be16(5) + Be16(0x88b5) + std::string(46, 'v'))},
      {"two VLANs", FrameOf(ETH_P_8021AD, Be16(7) + Be16(ETH_P_8021Q) + Be16(5) + Be16(0x88b5) +
                                              std::string(46, 'q'))},
      {"one byte of payload", FrameOf(0x88b5, "x")},
      {"no length that IPv4 has", FrameOf(ETH_P_IP, "z")},
  };
}

TEST_F(ConnectTest, EachKindOfFrameGoesBothWays) {
  const ConnectedInterface connected = Connect();
  ASSERT_THAT(connected.taps, SizeIs(1));
  for (const FrameCase& it : Frames()) {
    EXPECT_TRUE(ReachesTap(connected, it.frame)) << it.name;
    EXPECT_TRUE(ReachesWire(connected.taps[0], it.frame)) << it.name;
  }
}

TEST_F(ConnectTest, EachOfSeveralQueuesSends) {
  const ConnectedInterface connected = Connect(4);
  ASSERT_THAT(connected.taps, SizeIs(4));
  for (size_t i = 0; i < connected.taps.size(); ++i) {
    EXPECT_TRUE(ReachesWire(connected.taps[i], FrameOf(0x88b5, "queue" + std::to_string(i)))) << i;
  }
  for (const FrameCase& it : Frames()) {
    EXPECT_TRUE(ReachesTap(connected, it.frame)) << it.name;
  }
}

// As the CNI plugin of that name does: the device below is another namespace's.
TEST_F(ConnectTest, AMacvlan) {
  const std::string there =
      "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(pod_.get());
  if (const auto made = RunIn(outside_, {kIp, "link", "add", "mv0", "link", "peer0", "netns", there,
                                         "type", "macvlan", "mode", "bridge"});
      !made.has_value()) {
    GTEST_SKIP() << made.error().message();
  }
  Ip("link set mv0 up");
  EXPECT_THAT(Scan().left_out, testing::IsEmpty());
  Listen(pod_, "eth0");  // which is what mv0 is connected to
  const ConnectedInterface connected = Connect(1, "mv0");
  ASSERT_THAT(connected.taps, SizeIs(1));
  for (const FrameCase& it : Frames()) {
    EXPECT_TRUE(ReachesTap(connected, it.frame)) << it.name;
    EXPECT_TRUE(ReachesWire(connected.taps[0], it.frame)) << it.name;
  }
  EXPECT_TRUE(DisconnectInterface(pod_, Find("mv0").index).has_value());
}

TEST_F(ConnectTest, TheGuestGetsMacAndMtuOfTheInterface) {
  Ip("link set eth0 address 02:00:00:00:00:05 mtu 9000");
  ASSERT_TRUE(RunIn(outside_, {kIp, "link", "set", "peer0", "mtu", "9000"}).has_value());
  const ConnectedInterface connected = Connect();
  ASSERT_THAT(connected.taps, SizeIs(1));
  EXPECT_EQ(connected.mtu, 9000U);
  EXPECT_EQ(connected.mac, (MacAddress{2, 0, 0, 0, 0, 5}));
  const std::string largest = FrameOf(0x88b5, std::string(9000, 'L'));
  EXPECT_TRUE(ReachesTap(connected, largest));
  EXPECT_TRUE(ReachesWire(connected.taps[0], largest));
  EXPECT_EQ(Scan().interfaces.size(), 1U);  // the tap is none of the pod's
}

TEST_F(ConnectTest, TheHostsStackSaysNothingToTheGuest) {
  Ip("addr add 10.1.0.2/16 dev eth0");
  Ip("addr add fd00::2/64 dev eth0 nodad");
  const ConnectedInterface connected = Connect();
  ASSERT_THAT(connected.taps, SizeIs(1));
  // By itself: no router is looked for, no group joined, which Linux does within a second.
  pollfd polled = {.fd = connected.taps[0].get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&polled, 1, 1500), 0);
  // Who has 10.1.0.2? The guest is asked, and the host's stack, which has that address too, does not answer.
  const std::string request = FrameOf(ETH_P_ARP, std::string("\0\x01\x08\0\x06\x04\0\x01"
                                                             "\x02\0\0\0\0\x77"
                                                             "\x0a\x01\0\x01"
                                                             "\0\0\0\0\0\0"
                                                             "\x0a\x01\0\x02",
                                                             28));
  EXPECT_TRUE(ReachesTap(connected, request));
  // On the tap, from the guest's side, it does not either.
  EXPECT_TRUE(ReachesWire(connected.taps[0], request));
  usleep(static_cast<useconds_t>(std::chrono::microseconds(kSilence).count()));
  std::array<char, 2048> bytes{};
  EXPECT_LT(read(connected.taps[0].get(), bytes.data(), bytes.size()), 0);
  for (int i = 0; i < 100; ++i) {
    // An answer would be to whom the request is from.
    EXPECT_NE(NextOnWire().substr(0, 6), std::string("\x02\0\0\0\0\x77", 6));
  }
}

TEST_F(ConnectTest, DisconnectLeavesNothing) {
  const std::string before = Show("qdisc show");
  const int index = Find("eth0").index;
  {
    const ConnectedInterface connected = Connect(2);
    EXPECT_EQ(OwnerOf(index), IngressOwner::kOurs);
  }
  EXPECT_FALSE(HasTap(TapName(index)));
  EXPECT_EQ(OwnerOf(index), IngressOwner::kOurs);  // as after a crash
  for (int i = 0; i < 2; ++i) {
    const auto gone = DisconnectInterface(pod_, index);
    EXPECT_TRUE(gone.has_value()) << gone.error().message();
    EXPECT_EQ(Show("qdisc show"), before);
  }
}

TEST_F(ConnectTest, DisconnectTakesATapThatIsStillOpen) {
  const ConnectedInterface connected = Connect();
  ASSERT_THAT(connected.taps, SizeIs(1));
  const int index = Find("eth0").index;
  ASSERT_TRUE(DisconnectInterface(pod_, index).has_value());
  EXPECT_FALSE(HasTap(connected.tap_name));
  std::array<char, 2048> bytes{};
  EXPECT_LT(read(connected.taps[0].get(), bytes.data(), bytes.size()), 0);
  EXPECT_EQ(errno, EBADFD);
}

TEST_F(ConnectTest, WhatACrashLeftIsReplaced) {
  { const ConnectedInterface crashed = Connect(); }
  const ConnectedInterface again = Connect();
  ASSERT_THAT(again.taps, SizeIs(1));
  EXPECT_TRUE(ReachesTap(again, Frames()[0].frame));
  // Of a crash between qdisc and filter.
  ASSERT_TRUE(DisconnectInterface(pod_, Find("eth0").index).has_value());
  Tc("qdisc add dev eth0 ingress");
  EXPECT_TRUE(ReachesTap(Connect(), Frames()[0].frame));
}

TEST_F(ConnectTest, OneInterfaceIsOneGuests) {
  const ConnectedInterface first = Connect(2);
  for (const unsigned queues : {1U, 2U}) {
    const auto second = ConnectInterface(pod_, Find("eth0"), queues);
    ASSERT_FALSE(second.has_value());
    EXPECT_EQ(second.error().code(), Code::kAlreadyExists);
  }
  EXPECT_TRUE(ReachesTap(first, Frames()[0].frame));
}

TEST_F(ConnectTest, QdiscsOfOthersAreLeftAlone) {
  const Interface eth0 = Find("eth0");
  for (const std::string kind : {"clsact", "ingress"}) {
    Tc("qdisc add dev eth0 " + kind);
    if (kind == "ingress") {
      Tc("filter add dev eth0 parent ffff: protocol all prio 1 u32 match u32 0 0 action mirred "
         "egress redirect dev lo");
    }
    const std::string theirs = Show("qdisc show") + Show("filter show dev eth0 ingress");
    const auto refused = ConnectInterface(pod_, eth0, 1);
    ASSERT_FALSE(refused.has_value()) << kind;
    EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
    EXPECT_THAT(refused.error().message(), HasSubstr("eth0"));
    EXPECT_FALSE(HasTap(TapName(eth0.index)));
    EXPECT_TRUE(DisconnectInterface(pod_, eth0.index).has_value());
    EXPECT_EQ(Show("qdisc show") + Show("filter show dev eth0 ingress"), theirs);
    Tc("qdisc del dev eth0 " + kind);
  }
}

TEST_F(ConnectTest, AnInterfaceThatIsGoneOrAnotherIsNotFound) {
  Interface other = Find("eth0");
  other.mac[5] ^= 1;
  Interface eth0 = Find("eth0");
  const auto changed = ConnectInterface(pod_, other, 1);
  ASSERT_FALSE(changed.has_value());
  EXPECT_EQ(changed.error().code(), Code::kNotFound);
  Ip("link del eth0");
  const auto gone = ConnectInterface(pod_, eth0, 1);
  ASSERT_FALSE(gone.has_value());
  EXPECT_EQ(gone.error().code(), Code::kNotFound);
  EXPECT_TRUE(DisconnectInterface(pod_, eth0.index).has_value());
}

TEST_F(ConnectTest, WhatBecameAPortIsRefused) {
  const Interface eth0 = Find("eth0");
  Ip("link add br0 type bridge");
  Ip("link set eth0 master br0");
  const auto refused = ConnectInterface(pod_, eth0, 1);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(refused.error().message(), HasSubstr("port of br0"));
}

TEST(ConnectErrorTest, TheHostsNamespaceIsRefused) {
  const auto ours = Open("/proc/self/ns/net", O_RDONLY);
  ASSERT_TRUE(ours.has_value());
  const auto connected = ConnectInterface(*ours, Interface{}, 1);
  ASSERT_FALSE(connected.has_value());
  EXPECT_EQ(connected.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(connected.error().message(), HasSubstr("hostNetwork"));
  EXPECT_EQ(DisconnectInterface(*ours, 2).error().code(), Code::kFailedPrecondition);
}

TEST(ConnectErrorTest, WhatIsNoNamespaceIsAnError) {
  const auto file = Open("/dev/null", O_RDONLY);
  ASSERT_TRUE(file.has_value());
  EXPECT_FALSE(ConnectInterface(*file, Interface{}, 1).has_value());
  EXPECT_FALSE(DisconnectInterface(FdRef(-1), 2).has_value());
}

}  // namespace
}  // namespace wyvern::runtime
