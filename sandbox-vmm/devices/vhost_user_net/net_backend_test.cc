// Our network device as a back-end, by messages: what QEMU and DPDK ask of one besides its rings.
#include "vhost_user_net/net_backend.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/unix_socket.h"
#include "net/testing/net_rig.h"
#include "vhost_user/connection.h"

namespace wyvern::devices {
namespace {

using testing::FakeTap;
using testing::kGuestMac;
using testing::Raw;
using vhost_user::Connection;
using vhost_user::Request;
using vhost_user::VringState;

constexpr uint16_t kBackendPairs = 2;

class NetBackendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pair = MakeSocketPair(SOCK_STREAM);
    ASSERT_TRUE(pair.has_value());
    peer_ = std::make_unique<Connection>(std::move(pair->first));
    auto tap = std::make_unique<FakeTap>(kBackendPairs);
    tap_ = tap.get();
    auto device = NetDevice::Create({.worker = {.name = "net", .on_thread_start = nullptr},
                                     .tap = std::move(tap),
                                     .interface = {.mac = kGuestMac, .mtu = 9000}});
    WV_CHECK(device.has_value());
    vhost_user::BackendOptions options = NetBackendOptions(**device);
    backend_ = std::make_unique<vhost_user::Backend>(std::move(pair->second), *std::move(device),
                                                     std::move(options));
  }

  static Connection::Clock::time_point Soon() {
    return Connection::Clock::now() + std::chrono::seconds(5);
  }

  uint64_t Ask(Request request, std::span<const std::byte> payload = {}, uint32_t flags = 0) {
    WV_CHECK(peer_->Send(static_cast<uint32_t>(request), flags, payload, {}, Soon()).has_value());
    WV_CHECK(backend_->Serve().has_value());
    const auto reply = peer_->Receive(Soon());
    WV_CHECK(reply.has_value());
    return reply->As<uint64_t>();
  }

  template <typename T>
  bool Done(Request request, const T& value) {
    return Ask(request, std::as_bytes(std::span(&value, 1)), vhost_user::kFlagNeedReply) == 0;
  }

  void Negotiate() {
    const uint64_t offered = Ask(Request::kGetProtocolFeatures);
    WV_CHECK(peer_
                 ->Send(static_cast<uint32_t>(Request::kSetProtocolFeatures), 0,
                        std::as_bytes(std::span(&offered, 1)), {}, Soon())
                 .has_value());
    WV_CHECK(backend_->Serve().has_value());
  }

  // The next packet on the tap; empty: there is none.
  std::string OnTap() {
    std::string bytes(2048, '\0');
    const ssize_t got = ::recv(tap_->host(0).get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    return bytes.substr(0, got < 0 ? 0 : static_cast<size_t>(got));
  }

  FakeTap* tap_ = nullptr;
  std::unique_ptr<Connection> peer_;
  std::unique_ptr<vhost_user::Backend> backend_;
};

TEST_F(NetBackendTest, OffersPairsAndNoControlQueue) {
  EXPECT_EQ(Ask(Request::kGetQueueNum), kBackendPairs);
  const uint64_t offered = Ask(Request::kGetFeatures);
  EXPECT_EQ(offered & kNetControlFeatures, 0U);
  // Of the driver's commands the back-end needs to know these: QEMU offers them to the guest only if the
  // back-end has them.
  EXPECT_EQ(offered & (kNetMq | kNetGuestAnnounce | kNetMtu), kNetMq | kNetGuestAnnounce | kNetMtu);
  const uint64_t protocol = Ask(Request::kGetProtocolFeatures);
  const uint64_t wanted =
      vhost_user::kProtocolMq | vhost_user::kProtocolMtu | vhost_user::kProtocolRarp;
  EXPECT_EQ(protocol & wanted, wanted);
  Negotiate();
  EXPECT_TRUE(Done(Request::kSetVringNum, VringState{3, 256}));
  EXPECT_FALSE(Done(Request::kSetVringNum, VringState{4, 64}));
}

TEST_F(NetBackendTest, MtuReachesTheDeviceAndIsRefusedWhenInvalid) {
  Negotiate();
  EXPECT_TRUE(Done(Request::kNetSetMtu, uint64_t{1500}));
  EXPECT_TRUE(Done(Request::kNetSetMtu, uint64_t{68}));
  EXPECT_TRUE(Done(Request::kNetSetMtu, uint64_t{9000}));
  for (const uint64_t bad : {uint64_t{0}, uint64_t{67}, uint64_t{9001}, uint64_t{65536},
                             uint64_t{1500} + (uint64_t{1} << 32U)}) {
    EXPECT_FALSE(Done(Request::kNetSetMtu, bad)) << bad;
  }
}

TEST_F(NetBackendTest, RarpReachesTheTap) {
  Negotiate();
  constexpr std::array<uint8_t, 8> kMoved = {0x02, 0, 0, 0, 0, 0x44, 9, 9};
  EXPECT_TRUE(Done(Request::kSendRarp, kMoved));
  const std::string packet = OnTap();
  ASSERT_EQ(packet.size(), kNetHeaderSize + 60);
  const std::string address = Raw(kMoved).substr(0, 6);
  EXPECT_EQ(packet.substr(kNetHeaderSize, 14), std::string(6, '\xff') + address + "\x80\x35");
  EXPECT_EQ(packet.substr(kNetHeaderSize + 22, 6), address);
  EXPECT_FALSE(Done(Request::kSendRarp, std::array<uint8_t, 8>{})) << "of nobody";
  EXPECT_FALSE(Done(Request::kSendRarp, std::array<uint8_t, 8>{1, 0, 0, 0, 0, 1})) << "of a group";
  EXPECT_EQ(OnTap(), "");
}

}  // namespace
}  // namespace wyvern::devices
