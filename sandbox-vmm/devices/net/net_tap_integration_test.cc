// The device over taps of the kernel, in a network namespace of the test's own: what the driver
// sends appears on the interface, what is sent to the interface reaches the driver.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
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

  // Taps up, device started over them; false: skipped.
  void Make(uint16_t pairs, uint64_t refused = 0) {
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
    auto device = NetDevice::Create({.worker = {.name = "net", .on_thread_start = nullptr},
                                     .tap = *std::move(tap),
                                     .interface = {.mac = kGuestMac}});
    ASSERT_TRUE(device) << device.error().message();
    net_ = device->get();
    rig_ = std::make_unique<DeviceRig>(*std::move(device));
    rig_->Start(refused, 256);
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

  // Packets of the test's protocol only: the kernel sends some of its own on a new interface.
  std::string Next(uint16_t queue = 0) {
    for (;;) {
      const auto used = rig_->WaitMaybe(queue, milliseconds(5000));
      if (!used) {
        return "";
      }
      std::string bytes = rig_->queue(queue).Written(used->head, used->written);
      NetHeader header;
      std::memcpy(&header, bytes.data(), sizeof(header));
      for (uint16_t i = 1; i < header.num_buffers.value(); ++i) {
        const auto more = rig_->queue(queue).MustTakeUsed();
        bytes += rig_->queue(queue).Written(more.head, more.written);
      }
      const std::string type = Raw(Be16(kExperiment));
      if (bytes.substr(kNetHeaderSize + 12, 2) == type) {
        return bytes.substr(kNetHeaderSize);
      }
    }
  }

  UniqueFd packets_;
  KernelTap* tap_ = nullptr;
  NetDevice* net_ = nullptr;
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
