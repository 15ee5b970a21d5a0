// The devices over taps of the kernel, in a network namespace of the test's own: what the driver
// sends appears on the interface, what is sent to the interface reaches the driver. VhostNetDevice
// over the kernel's vhost-net where there is /dev/vhost-net.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "net/kernel_tap.h"
#include "net/testing/net_rig.h"
#include "net/vhost_net_device.h"

namespace wyvern::devices {
namespace {

using std::chrono::milliseconds;
using testing::DeviceRig;
using testing::Frame;
using testing::kGuestMac;
using testing::kHostMac;
using testing::Raw;
using testing::TsoHeader;

constexpr char kInterface[] = "wvtest0";
// Of no protocol that the host would answer.
constexpr uint16_t kExperiment = 0x88b5;

constexpr uint32_t kHostIp = 0x0a630001;
constexpr uint32_t kGuestIp = 0x0a630002;
constexpr uint16_t kPort = 5000;
constexpr uint16_t kSegment = 1000;
constexpr size_t kSegments = 10;
constexpr size_t kUdpHeaders = 14 + 20 + 8;

template <typename T>
T Address(uint32_t ip, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(ip);
  T out{};
  std::memcpy(&out, &address, sizeof(address));
  return out;
}

// RFC 1071, without the complement.
uint16_t Sum(const std::string& bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); i += 2) {
    sum += static_cast<uint32_t>(static_cast<uint8_t>(bytes[i])) << 8U;
    sum += i + 1 < bytes.size() ? static_cast<uint8_t>(bytes[i + 1]) : 0U;
  }
  while (sum > 0xffff) {
    sum = (sum & 0xffffU) + (sum >> 16U);
  }
  return static_cast<uint16_t>(sum);
}

// UDP from guest to host, its checksum left to the device: the field has the pseudo header's sum.
std::string UdpFrame(const std::string& mac, const std::string& data) {
  const std::string ends = Raw(Be32(kGuestIp)) + Raw(Be32(kHostIp));
  const auto length = static_cast<uint16_t>(8 + data.size());
  std::string ip = Raw(Be16(0x4500)) + Raw(Be16(static_cast<uint16_t>(20 + length))) +
                   std::string(4, '\0') + Raw(Be16(uint16_t{64} << 8U | IPPROTO_UDP)) +
                   std::string(2, '\0') + ends;
  ip.replace(10, 2, Raw(Be16(static_cast<uint16_t>(~Sum(ip)))));
  const uint16_t pseudo = Sum(ends + Raw(Be16(IPPROTO_UDP)) + Raw(Be16(length)));
  return mac + Raw(kGuestMac) + Raw(Be16(ETH_P_IP)) + ip + Raw(Be16(kPort)) + Raw(Be16(kPort)) +
         Raw(Be16(length)) + Raw(Be16(pseudo)) + data;
}

ifreq Named() {
  ifreq request{};
  std::memcpy(request.ifr_name, kInterface, sizeof(kInterface));
  return request;
}

Result<UniqueFd> OpenTap(unsigned flags) {
  WV_TRY(UniqueFd tap, Open("/dev/net/tun", O_RDWR));
  ifreq request = Named();
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | flags);
  if (ioctl(tap.get(), TUNSETIFF, &request) != 0) {
    return SysError("ioctl(TUNSETIFF)");
  }
  return tap;
}

class NetTapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // The thread's namespace: threads that it starts are in it too.
    if (unshare(CLONE_NEWNET) != 0) {
      GTEST_SKIP() << "a network namespace of its own: " << strerrordesc_np(errno);
    }
  }

  // Taps up, device started over them. Skips the test where there are none.
  void Make(uint16_t pairs, uint64_t refused = 0) {
    std::unique_ptr<KernelTap> tap = MakeTap(pairs);
    if (tap == nullptr) {
      return;
    }
    auto device = NetDevice::Create({.worker = {.name = "net", .on_thread_start = nullptr},
                                     .tap = std::move(tap),
                                     .interface = {.mac = kGuestMac}});
    ASSERT_TRUE(device) << device.error().message();
    net_ = device->get();
    rig_ = std::make_unique<DeviceRig>(*std::move(device));
    rig_->Start(refused, 256);
  }

  // The same with the rings given to the kernel.
  void MakeVhost(uint16_t pairs) {
    std::vector<UniqueFd> vhost;
    for (uint16_t i = 0; i < pairs; ++i) {
      auto fd = Open("/dev/vhost-net", O_RDWR);
      if (!fd) {
        GTEST_SKIP() << fd.error().message();
      }
      vhost.push_back(*std::move(fd));
    }
    std::unique_ptr<KernelTap> tap = MakeTap(pairs);
    if (tap == nullptr) {
      return;
    }
    auto device = VhostNetDevice::Create({.worker = {.name = "net", .on_thread_start = nullptr},
                                          .tap = std::move(tap),
                                          .vhost = std::move(vhost),
                                          .interface = {.mac = kGuestMac}});
    ASSERT_TRUE(device) << device.error().message();
    vhost_ = device->get();
    rig_ = std::make_unique<DeviceRig>(*std::move(device));
    rig_->Start(0, 256);
  }

  std::unique_ptr<KernelTap> MakeTap(uint16_t pairs) {
    std::unique_ptr<KernelTap> made;
    OpenTaps(pairs, &made);
    return made;
  }

  void OpenTaps(uint16_t pairs, std::unique_ptr<KernelTap>* made) {
    std::vector<UniqueFd> taps;
    for (uint16_t i = 0; i < pairs; ++i) {
      auto tap = OpenTap(IFF_VNET_HDR | (pairs > 1 ? IFF_MULTI_QUEUE : 0U));
      if (!tap) {
        GTEST_SKIP() << tap.error().message();
      }
      taps.push_back(*std::move(tap));
    }
    packets_ = UniqueFd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(kExperiment)));
    ASSERT_TRUE(packets_.valid());
    Up();
    auto tap = KernelTap::Create(std::move(taps));
    ASSERT_TRUE(tap) << tap.error().message();
    tap_ = tap->get();
    *made = *std::move(tap);
  }

  void Up() {
    ifreq request = Named();
    ASSERT_EQ(ioctl(packets_.get(), SIOCGIFFLAGS, &request), 0);
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    ASSERT_EQ(ioctl(packets_.get(), SIOCSIFFLAGS, &request), 0);
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(kExperiment);
    address.sll_ifindex = static_cast<int>(if_nametoindex(kInterface));
    ASSERT_EQ(bind(packets_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }

  void HostSend(const std::string& frame) {
    ASSERT_EQ(send(packets_.get(), frame.data(), frame.size(), 0),
              static_cast<ssize_t>(frame.size()));
  }

  std::string HostReceive() {
    std::string frame(size_t{128} << 10, '\0');
    pollfd ready{.fd = packets_.get(), .events = POLLIN, .revents = 0};
    if (poll(&ready, 1, 5000) != 1) {
      return "";
    }
    const ssize_t got = recv(packets_.get(), frame.data(), frame.size(), 0);
    frame.resize(got < 0 ? 0 : static_cast<size_t>(got));
    return frame;
  }

  void Transmit(const std::string& frame, const NetHeader& header = {}, uint16_t queue = 1) {
    rig_->queue(queue).Build().Readable(Raw(header)).Readable(frame).Submit();
    rig_->Kick(queue);
  }

  struct Arrived {
    NetHeader header;
    std::string bytes;
  };

  // Packets of that protocol only: the kernel sends some of its own on a new interface. None: no
  // bytes.
  Arrived NextOf(uint16_t type, uint16_t queue, milliseconds timeout) {
    for (;;) {
      const auto used = rig_->WaitMaybe(queue, timeout);
      if (!used) {
        return {};
      }
      std::string bytes = rig_->queue(queue).Written(used->head, used->written);
      NetHeader header;
      std::memcpy(&header, bytes.data(), sizeof(header));
      for (uint16_t i = 1; i < header.num_buffers.value(); ++i) {
        const auto more = rig_->queue(queue).MustTakeUsed();
        bytes += rig_->queue(queue).Written(more.head, more.written);
      }
      if (bytes.substr(kNetHeaderSize + 12, 2) == Raw(Be16(type))) {
        return {.header = header, .bytes = bytes.substr(kNetHeaderSize)};
      }
    }
  }

  std::string Next(uint16_t queue = 0, milliseconds timeout = milliseconds(5000)) {
    return NextOf(kExperiment, queue, timeout).bytes;
  }

  // A socket of the host's at kHostIp, port kPort, which knows where kGuestIp is; the interface's
  // own address.
  void OpenUdp(UniqueFd* udp, std::string* mac) {
    *udp = UniqueFd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request = Named();
    request.ifr_addr = Address<sockaddr>(kHostIp, 0);
    ASSERT_EQ(ioctl(udp->get(), SIOCSIFADDR, &request), 0);
    ASSERT_EQ(ioctl(udp->get(), SIOCGIFHWADDR, &request), 0);
    mac->assign(request.ifr_hwaddr.sa_data, 6);
    arpreq neighbour{};
    neighbour.arp_pa = Address<sockaddr>(kGuestIp, 0);
    neighbour.arp_ha.sa_family = ARPHRD_ETHER;
    std::memcpy(neighbour.arp_ha.sa_data, kGuestMac.data(), kGuestMac.size());
    neighbour.arp_flags = ATF_PERM | ATF_COM;
    std::memcpy(neighbour.arp_dev, kInterface, sizeof(kInterface));
    ASSERT_EQ(ioctl(udp->get(), SIOCSARP, &neighbour), 0);
    const auto at = Address<sockaddr>(kHostIp, kPort);
    ASSERT_EQ(bind(udp->get(), &at, sizeof(at)), 0);
    const timeval patience{.tv_sec = 5, .tv_usec = 0};
    ASSERT_EQ(setsockopt(udp->get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
  }

  // Ten segments cross the device as one packet, from the driver and to it.
  void MoveUdpSegments() {
    ASSERT_NE(rig_->features() & kNetHostUso, 0U);
    ASSERT_NE(rig_->features() & kNetGuestUso4, 0U);
    UniqueFd udp;
    std::string mac;
    OpenUdp(&udp, &mac);
    for (int i = 0; i < 50; ++i) {
      rig_->queue(0).Build().Writable(1526).Submit();
    }
    rig_->Kick(0);

    const std::string data = Frame(kSegments * kSegment);
    Transmit(UdpFrame(mac, data), TsoHeader(kNetGsoUdp, kSegment));
    std::string got;
    for (size_t i = 0; i < kSegments; ++i) {
      std::string datagram(size_t{1} << 16U, '\0');
      const ssize_t length = recv(udp.get(), datagram.data(), datagram.size(), 0);
      ASSERT_EQ(length, ssize_t{kSegment}) << i;
      got += datagram.substr(0, kSegment);
    }
    EXPECT_EQ(got, data);

    const int segment = kSegment;
    ASSERT_EQ(setsockopt(udp.get(), IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment)), 0);
    const auto to = Address<sockaddr>(kGuestIp, kPort);
    ASSERT_EQ(sendto(udp.get(), data.data(), data.size(), 0, &to, sizeof(to)),
              static_cast<ssize_t>(data.size()));
    const Arrived packet = NextOf(ETH_P_IP, 0, milliseconds(5000));
    EXPECT_EQ(packet.bytes.size(), kUdpHeaders + data.size()) << "one packet, not ten";
    EXPECT_EQ(packet.header.gso_type, kNetGsoUdp);
    EXPECT_EQ(packet.header.gso_size.value(), kSegment);
    EXPECT_EQ(packet.header.flags & kNetNeedsCsum, kNetNeedsCsum);
    EXPECT_EQ(packet.bytes.substr(kUdpHeaders), data);
  }

  UniqueFd packets_;
  KernelTap* tap_ = nullptr;
  NetDevice* net_ = nullptr;
  VhostNetDevice* vhost_ = nullptr;
  std::unique_ptr<DeviceRig> rig_;
};

TEST_F(NetTapTest, FramesGoBothWays) {
  Make(1);
  if (IsSkipped()) {
    return;
  }
  for (int i = 0; i < 100; ++i) {
    rig_->queue(0).Build().Writable(1526).Submit();
  }
  rig_->Kick(0);
  const std::string out = Frame(100, kHostMac, kExperiment);
  Transmit(out);
  EXPECT_EQ(HostReceive(), out);
  const std::string in = Frame(1514, kGuestMac, kExperiment);
  HostSend(in);
  EXPECT_EQ(Next(), in);
  EXPECT_EQ(rig_->counter("tx_errors"), 0U);
}

TEST_F(NetTapTest, KernelAcceptsEveryHeaderThatPasses) {
  // IPv4 and TCP as far as the kernel looks at segments.
  Make(1);
  if (IsSkipped()) {
    return;
  }
  std::string frame = Frame(9000, kHostMac, 0x0800);
  const unsigned char ip[] = {0x45, 0, 0x23, 0x1a, 0, 0, 0,  0, 64, 6,
                              0,    0, 10,   0,    0, 1, 10, 0, 0,  2};
  std::memcpy(frame.data() + 14, ip, sizeof(ip));
  frame[14 + 20 + 12] = 0x50;
  NetHeader header = TsoHeader();
  header.hdr_len = uint16_t{0xffff};
  Transmit(frame, header);
  header.hdr_len = uint16_t{1};
  Transmit(frame, header);
  NetHeader plain;
  plain.flags = 0xfe;
  plain.hdr_len = uint16_t{3};
  Transmit(Frame(14, kHostMac, kExperiment), plain);
  for (int i = 0; i < 3; ++i) {
    rig_->WaitUsed(1);
  }
  EXPECT_EQ(rig_->counter("tx_errors"), 0U);
  EXPECT_EQ(rig_->counter("tx_packets"), 3U);
  EXPECT_NE(tap_->offloads() & kTunCsum, 0U);
}

TEST_F(NetTapTest, PairsAreAttachedAndDetached) {
  Make(4);
  if (IsSkipped()) {
    return;
  }
  for (uint16_t pairs : {4, 1, 3, 2}) {
    const NetCommand command{.command_class = static_cast<uint8_t>(NetClass::kMq),
                             .command = kNetMqPairsSet};
    const uint16_t head =
        rig_->queue(8).Build().Readable(Raw(command) + Raw(Le16(pairs))).Writable(1).Submit();
    rig_->Kick(8);
    rig_->WaitUsed(8);
    ASSERT_EQ(rig_->queue(8).Written(head, 1)[0], 0) << pairs;
    // The last pair in use sends; what comes back arrives on some pair in use.
    const std::string out = Frame(60, kHostMac, kExperiment);
    Transmit(out, {}, static_cast<uint16_t>(2 * pairs - 1));
    EXPECT_EQ(HostReceive(), out) << pairs;
  }
  EXPECT_EQ(rig_->counter("tx_errors"), 0U);
}

TEST_F(NetTapTest, LinkIsTheInterfacesCarrier) {
  Make(1);
  if (IsSkipped()) {
    return;
  }
  const auto running = [&] {
    ifreq request = Named();
    EXPECT_EQ(ioctl(packets_.get(), SIOCGIFFLAGS, &request), 0);
    return (request.ifr_flags & IFF_RUNNING) != 0;
  };
  const auto becomes = [&](bool up) {
    for (int i = 0; i < 500 && running() != up; ++i) {
      std::this_thread::sleep_for(milliseconds(10));
    }
    return running() == up;
  };
  EXPECT_TRUE(becomes(true));
  net_->SetLinkUp(false);
  EXPECT_TRUE(becomes(false));
  net_->SetLinkUp(true);
  EXPECT_TRUE(becomes(true));
}

TEST_F(NetTapTest, UdpGoesInSegmentsBothWays) {
  Make(1);
  if (IsSkipped()) {
    return;
  }
  if ((tap_->offloads() & kTunUso) == 0) {
    GTEST_SKIP() << "this kernel's taps have no USO (Linux 6.2)";
  }
  MoveUdpSegments();
  EXPECT_EQ(rig_->counter("tx_errors"), 0U);
}

TEST_F(NetTapTest, VhostNetMovesUdpInSegmentsBothWays) {
  MakeVhost(1);
  if (IsSkipped()) {
    return;
  }
  if ((tap_->offloads() & kTunUso) == 0) {
    GTEST_SKIP() << "this kernel's taps have no USO (Linux 6.2)";
  }
  MoveUdpSegments();
}

// 200 packets of each direction, the rings taken from the kernel and given back between them.
TEST_F(NetTapTest, VhostNetGoesOnWhereItWasStopped) {
  MakeVhost(1);
  if (IsSkipped()) {
    return;
  }
  for (int i = 0; i < 50; ++i) {  // some take what the kernel says of itself on a new interface
    rig_->queue(0).Build().Writable(1526).Submit();
  }
  for (size_t i = 0; i < 200; ++i) {
    rig_->queue(0).Build().Writable(1526).Submit();
    rig_->Kick(0);
    const std::string out = Frame(60 + i, kHostMac, kExperiment);
    Transmit(out);
    ASSERT_EQ(HostReceive(), out) << i;
    const std::string in = Frame(1000 + i, kGuestMac, kExperiment);
    HostSend(in);
    ASSERT_EQ(Next(), in) << i;
    rig_->WaitUsed(1);
    if (i % 3 == 0) {
      (void)rig_->core().Pause();
      ASSERT_TRUE(rig_->core().Resume());
    }
  }
  EXPECT_EQ(rig_->counter("faults"), 0U);
}

TEST_F(NetTapTest, VhostNetDropsWhatIsSentWhileTheLinkIsDown) {
  MakeVhost(1);
  if (IsSkipped()) {
    return;
  }
  for (int i = 0; i < 100; ++i) {
    rig_->queue(0).Build().Writable(1526).Submit();
  }
  rig_->Kick(0);
  for (size_t i = 0; i < 3; ++i) {
    vhost_->SetLinkUp(false);
    for (size_t k = 0; k < 5; ++k) {
      Transmit(Frame(100 + k, kHostMac, kExperiment));
      ASSERT_TRUE(rig_->WaitMaybe(1, milliseconds(5000))) << "nobody takes what is sent";
    }
    vhost_->SetLinkUp(true);
    const std::string out = Frame(200 + i, kHostMac, kExperiment);
    Transmit(out);
    ASSERT_EQ(HostReceive(), out) << "and nothing of before";
    rig_->WaitUsed(1);
    // The carrier is seen by a queue of the kernel's, some time later.
    const std::string in = Frame(300 + i, kGuestMac, kExperiment);
    std::string got;
    for (int tries = 0; tries < 50 && got != in; ++tries) {
      (void)send(packets_.get(), in.data(), in.size(), 0);  // refused until then
      got = Next(0, milliseconds(100));
    }
    ASSERT_EQ(got, in);
    while (!Next(0, milliseconds(100)).empty()) {
    }
  }
  EXPECT_EQ(rig_->counter("tx_link_down"), 15U);
  EXPECT_EQ(rig_->counter("faults"), 0U);
}

TEST_F(NetTapTest, VhostNetPairsChangeHands) {
  MakeVhost(3);
  if (IsSkipped()) {
    return;
  }
  for (uint16_t pairs : {3, 1, 2, 3, 2}) {
    const NetCommand command{.command_class = static_cast<uint8_t>(NetClass::kMq),
                             .command = kNetMqPairsSet};
    const uint16_t head =
        rig_->queue(6).Build().Readable(Raw(command) + Raw(Le16(pairs))).Writable(1).Submit();
    rig_->Kick(6);
    rig_->WaitUsed(6);
    ASSERT_EQ(rig_->queue(6).Written(head, 1)[0], 0) << pairs;
    for (uint16_t pair = 0; pair < 3; ++pair) {
      const auto queue = static_cast<uint16_t>(2 * pair + 1);
      const std::string out = Frame(60 + pair + 10 * pairs, kHostMac, kExperiment);
      Transmit(out, {}, queue);
      ASSERT_TRUE(rig_->WaitMaybe(queue, milliseconds(5000))) << pair;
      if (pair < pairs) {
        EXPECT_EQ(HostReceive(), out) << pair << " of " << pairs;
      }
    }
  }
  EXPECT_EQ(rig_->counter("tx_inactive"), 2U + 1U + 1U);
  EXPECT_EQ(rig_->counter("faults"), 0U);
}

TEST_F(NetTapTest, TapsThatDoNotFitAreRefused) {
  auto bare = OpenTap(0);
  if (!bare) {
    GTEST_SKIP() << bare.error().message();
  }
  std::vector<UniqueFd> queues;
  queues.push_back(*std::move(bare));
  EXPECT_FALSE(KernelTap::Create(std::move(queues))) << "no IFF_VNET_HDR";
}

}  // namespace
}  // namespace wyvern::devices
