// Our front-end for network devices before our back-end: pairs, link, announcements, MTU, successors.
// Its commands: net_command_table_test.cc.
#include "vhost_user_net/vhost_user_net_device.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/unix_socket.h"
#include "net/testing/net_rig.h"
#include "testing/backend_process.h"
#include "testing/wait.h"
#include "vhost_user/testing/backend_peer.h"
#include "vhost_user_net/net_backend.h"
#include "vhost_user_net/testing/net_frontend.h"

namespace wyvern::devices {
namespace {

using std::chrono::milliseconds;
using testing::BackendProcess;
using testing::DeviceRig;
using testing::FakeTap;
using testing::Frame;
using testing::kGuestMac;
using testing::NetRig;
using testing::Raw;

constexpr uint32_t kRoomForAFrame = 1526;

testing::NetRigOptions OverVhostUser(uint16_t pairs,
                                     testing::RingKind ring = testing::RingKind::kSplit) {
  return {.pairs = pairs,
          .rig = {.transport = testing::TransportKind::kVhostUser,
                  .ring = ring,
                  .frontend = testing::MakeNetFrontend}};
}

// The host's side of every pair: sends as much as fits, and counts what comes.
class HostTraffic {
 public:
  static constexpr uint16_t kMost = 4;

  HostTraffic(NetRig& rig, uint16_t pairs) : rig_(rig), pairs_(pairs), thread_([this] { Run(); }) {}

  ~HostTraffic() {
    over_ = true;
    thread_.join();
  }

  HostTraffic(const HostTraffic&) = delete;
  HostTraffic& operator=(const HostTraffic&) = delete;

  bool WaitCame(uint16_t pair, uint64_t count) const {
    return testing::WaitUntil([&] { return came(pair) >= count; }, std::chrono::seconds(10));
  }

  uint64_t came(uint16_t pair) const { return came_.at(pair); }

 private:
  void Run() {
    while (!over_) {
      for (uint16_t pair = 0; pair < pairs_; ++pair) {
        (void)rig_.HostSend(Frame(200), {}, pair);
        while (rig_.HostReceiveMaybe(pair, milliseconds(0))) {
          ++came_.at(pair);
        }
      }
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

  NetRig& rig_;
  const uint16_t pairs_;
  std::array<std::atomic<uint64_t>, kMost> came_{};
  std::atomic<bool> over_{false};
  std::thread thread_;
};

class PairsTest : public ::testing::TestWithParam<testing::RingKind> {
 protected:
  static constexpr uint16_t kPairs = 4;
  static constexpr int kFrames = 20;

  // Sends from a pair; every frame comes back.
  void Send(uint16_t pair) {
    for (int i = 0; i < kFrames; ++i) {
      rig_.Transmit(Frame(300), {}, pair);
      rig_.device().WaitUsed(static_cast<uint16_t>(2 * pair + 1));
    }
  }

  void ExpectTraffic(uint16_t pair) {
    const uint64_t before = host_.came(pair);
    Send(pair);
    EXPECT_TRUE(host_.WaitCame(pair, before + kFrames)) << pair;
    for (int i = 0; i < kFrames; ++i) {
      rig_.Offer(kRoomForAFrame, pair);
      EXPECT_EQ(rig_.Next(pair).bytes, Frame(200)) << pair;
    }
  }

  // What is offered stays with the device until the pair is in use again.
  void ExpectSilence(uint16_t pair) {
    while (rig_.NextMaybe(pair, milliseconds(0))) {  // from before
    }
    rig_.Offer(kRoomForAFrame, pair);
    const uint64_t before = host_.came(pair);
    const uint64_t discarded = rig_.counter("tx_inactive");
    Send(pair);
    EXPECT_EQ(rig_.counter("tx_inactive"), discarded + kFrames) << pair;
    EXPECT_FALSE(rig_.NextMaybe(pair, milliseconds(2))) << pair;
    EXPECT_EQ(host_.came(pair), before) << pair;
  }

  void UsePairs(uint16_t pairs) {
    ASSERT_EQ(rig_.Command(NetClass::kMq, kNetMqPairsSet, Raw(Le16(pairs))), 0);
    for (uint16_t pair = 0; pair < kPairs; ++pair) {
      if (pair < pairs) {
        ExpectTraffic(pair);
      } else {
        ExpectSilence(pair);
      }
    }
  }

  NetRig rig_{OverVhostUser(kPairs, GetParam())};
  HostTraffic host_{rig_, kPairs};
};

TEST_P(PairsTest, OneToFourToOneWhileTrafficRuns) {
  for (int life = 0; life < 2; ++life) {
    const uint64_t mark = rig_.device().ram().Mark();
    rig_.Start();
    for (const uint16_t pairs : {1, 4, 1, 4, 2, 3, 1}) {
      UsePairs(pairs);
      if (HasFatalFailure()) {
        return;
      }
    }
    UsePairs(4);  // the next driver begins with one all the same
    rig_.device().Reset();
    rig_.device().ram().Release(mark);
  }
  rig_.Start();
  ExpectTraffic(0);
  ExpectSilence(3);
}

INSTANTIATE_TEST_SUITE_P(Rings, PairsTest,
                         ::testing::Values(testing::RingKind::kSplit, testing::RingKind::kPacked),
                         [](const auto& info) {
                           return info.param == testing::RingKind::kSplit ? "split" : "packed";
                         });

// The two ends in the test's hands: successive back-ends, each with a tap of its own.
class VhostUserNetTest : public ::testing::Test {
 protected:
  void SetUp() override { options_.frontend.timeout = std::chrono::seconds(10); }

  // A back-end with `pairs`; the front-end's end of its socket.
  UniqueFd Serve(uint16_t pairs) {
    auto sockets = MakeSocketPair(SOCK_STREAM);
    WV_CHECK(sockets.has_value());
    auto tap = std::make_unique<FakeTap>(pairs);
    tap_ = tap.get();
    auto device = NetDevice::Create({.worker = {.name = "net", .on_thread_start = nullptr},
                                     .tap = std::move(tap),
                                     .interface = {.mac = kGuestMac}});
    WV_CHECK(device.has_value());
    served_ = device->get();
    theirs_ = *sockets->second.Duplicate();
    vhost_user::BackendOptions options = NetBackendOptions(**device);
    backend_ = std::make_unique<BackendProcess>(std::move(sockets->second), *std::move(device),
                                                std::move(options));
    return std::move(sockets->first);
  }

  void Make(uint16_t pairs = 1, uint16_t mtu = 0) {
    options_.socket = Serve(pairs);
    options_.worker.name = "vhost-user-net";
    options_.interface = {.mac = kGuestMac, .mtu = mtu};
    options_.pairs = pairs;
    auto device = VhostUserNetDevice::Create(std::move(options_));
    WV_CHECK(device.has_value());
    net_ = device->get();
    rig_ = std::make_unique<DeviceRig>(*std::move(device));
  }

  void KillBackend() {
    ::shutdown(theirs_.get(), SHUT_RDWR);
    backend_.reset();
  }

  void TearDown() override {
    rig_.reset();  // hangs up
    backend_.reset();
  }

  uint8_t Command(uint16_t queue, NetClass command_class, uint8_t command,
                  const std::string& data) {
    const NetCommand header{static_cast<uint8_t>(command_class), command};
    const uint16_t head =
        rig_->queue(queue).Build().Readable(Raw(header) + data).Writable(1).Submit();
    rig_->Kick(queue);
    rig_->WaitUsed(queue);
    return static_cast<uint8_t>(rig_->queue(queue).Written(head, 1)[0]);
  }

  uint8_t SetPairs(uint16_t control, uint16_t pairs) {
    return Command(control, NetClass::kMq, kNetMqPairsSet, Raw(Le16(pairs)));
  }

  // The next packet of the guest on the tap, without its header; empty: none comes.
  std::string OnTap(uint16_t pair = 0, milliseconds timeout = std::chrono::seconds(5)) {
    std::string bytes(4096, '\0');
    ssize_t got = -1;
    (void)testing::WaitUntil(
        [&] {
          got = ::recv(tap_->host(pair).get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
          return got >= static_cast<ssize_t>(kNetHeaderSize);
        },
        timeout);
    return got < 0 ? "" : bytes.substr(kNetHeaderSize, static_cast<size_t>(got) - kNetHeaderSize);
  }

  void Transmit(const std::string& frame, uint16_t pair = 0) {
    const auto queue = static_cast<uint16_t>(2 * pair + 1);
    rig_->queue(queue).Build().Readable(Raw(NetHeader{}) + frame).Submit();
    rig_->Kick(queue);
    rig_->WaitUsed(queue);
  }

  void Offer() {
    rig_->queue(0).Build().Writable(kRoomForAFrame).Submit();
    rig_->Kick(0);
  }

  void HostSend(const std::string& frame) {
    const std::string packet = std::string(kNetHeaderSize, '\0') + frame;
    ASSERT_EQ(::send(tap_->host(0).get(), packet.data(), packet.size(), 0),
              static_cast<ssize_t>(packet.size()));
  }

  uint64_t ServedCounter(std::string_view name) const {
    for (const virtio::CounterValue& counter : served_->counters()) {
      if (name == counter.name) {
        return counter.value;
      }
    }
    WV_CHECK(false && "no such counter");
    return 0;
  }

  VhostUserNetOptions options_;
  FakeTap* tap_ = nullptr;
  NetDevice* served_ = nullptr;  // while backend_ has its connection
  UniqueFd theirs_;
  std::unique_ptr<BackendProcess> backend_;
  VhostUserNetDevice* net_ = nullptr;
  std::unique_ptr<DeviceRig> rig_;
};

TEST_F(VhostUserNetTest, OffersTheBackEndsPacketsAndOurControl) {
  Make(3, 1400);
  const uint64_t all = net_->traits().features;
  const uint64_t ours =
      kNetMac | kNetStatus | kNetMtu | kNetCtrlVq | kNetCtrlMacAddr | kNetGuestAnnounce;
  EXPECT_EQ(all & ours, ours);
  EXPECT_EQ(all & (kNetMq | kNetMrgRxbuf | kNetGuestOffloads | virtio::kRingFeatures),
            kNetMq | kNetMrgRxbuf | kNetGuestOffloads | virtio::kRingFeatures);
  EXPECT_EQ(all & (kNetCtrlRx | kNetCtrlRxExtra | kNetCtrlGuestOffloads), 0U) << "nobody does that";
  EXPECT_EQ(net_->traits().queue_sizes.size(), 7U);
  EXPECT_EQ(rig_->Config<MacAddress>(0), kGuestMac);
  EXPECT_EQ(rig_->Config<Le16>(6).value(), kNetLinkUp);
  EXPECT_EQ(rig_->Config<Le16>(8).value(), 3);
  EXPECT_EQ(rig_->Config<Le16>(10).value(), 1400);
}

TEST_F(VhostUserNetTest, BackEndOfFewerPairsIsRefused) {
  const auto create = [&](UniqueFd socket, uint16_t pairs) {
    VhostUserNetOptions options;
    options.worker.name = "vhost-user-net";
    options.socket = std::move(socket);
    options.interface = {.mac = kGuestMac};
    options.pairs = pairs;
    auto made = VhostUserNetDevice::Create(std::move(options));
    return made ? Code::kOk : made.error().code();
  };
  EXPECT_EQ(create(Serve(2), 3), Code::kFailedPrecondition);
  backend_.reset();
  EXPECT_EQ(create(Serve(2), 2), Code::kOk);
  backend_.reset();
  EXPECT_EQ(create(Serve(2), 1), Code::kOk) << "it may have more";
  backend_.reset();
  EXPECT_EQ(create(Serve(1), 0), Code::kInvalidArgument);
  backend_.reset();
  EXPECT_EQ(create(Serve(1), 129), Code::kInvalidArgument);
  // Pairs enough, and no multiqueue.
  vhost_user::testing::Peer simple({}, 0, {}, 4);
  EXPECT_EQ(create(std::move(simple.front_end), 2), Code::kFailedPrecondition);
  EXPECT_EQ(create(Serve(1), 1), Code::kOk);
}

TEST_F(VhostUserNetTest, OnePairHasItsControlQueueToo) {
  Make();
  rig_->Start();
  EXPECT_EQ(rig_->queue_count(), 3);
  EXPECT_EQ(Command(2, NetClass::kMac, kNetMacAddrSet, Raw(MacAddress{2, 0, 0, 0, 0, 9})), 0);
  EXPECT_EQ(SetPairs(2, 1), 1) << "there is no multiqueue";
  Transmit(Frame(60));
  EXPECT_EQ(OnTap(), Frame(60));
}

TEST_F(VhostUserNetTest, LinkThatIsDownDisablesTheRings) {
  Make(2);
  rig_->Start();
  ASSERT_EQ(SetPairs(4, 2), 0);
  net_->SetLinkUp(false);
  net_->SetLinkUp(false);
  EXPECT_EQ(rig_->Config<Le16>(6).value(), 0);
  EXPECT_EQ(rig_->interrupt().config_signals(), 1U);
  EXPECT_FALSE(tap_->active(1));
  Transmit(Frame(60));
  EXPECT_EQ(ServedCounter("tx_inactive"), 1U);
  EXPECT_EQ(SetPairs(4, 1), 0) << "while it is down";
  EXPECT_EQ(SetPairs(4, 2), 0);
  EXPECT_FALSE(tap_->active(1));
  net_->SetLinkUp(true);
  EXPECT_EQ(rig_->Config<Le16>(6).value(), kNetLinkUp);
  EXPECT_EQ(rig_->interrupt().config_signals(), 2U);
  EXPECT_TRUE(tap_->active(1));
  Transmit(Frame(61));
  EXPECT_EQ(OnTap(), Frame(61));
  Transmit(Frame(62), 1);
  EXPECT_EQ(OnTap(1), Frame(62));
}

TEST_F(VhostUserNetTest, DriverAnnouncesOrTheBackEndDoes) {
  Make();
  rig_->Start();
  ASSERT_TRUE(net_->Announce());
  EXPECT_EQ(rig_->Config<Le16>(6).value(), kNetLinkUp | kNetAnnounce);
  EXPECT_EQ(rig_->interrupt().config_signals(), 1U);
  EXPECT_EQ(Command(2, NetClass::kAnnounce, kNetAnnounceAck, ""), 0);
  EXPECT_EQ(rig_->Config<Le16>(6).value(), kNetLinkUp);
  EXPECT_EQ(OnTap(0, milliseconds(0)), "");
  rig_->Start(kNetGuestAnnounce);
  ASSERT_TRUE(net_->Announce());
  EXPECT_EQ(rig_->Config<Le16>(6).value(), kNetLinkUp);
  EXPECT_EQ(OnTap().substr(0, 14), std::string(6, '\xff') + Raw(kGuestMac) + "\x80\x35");
}

TEST_F(VhostUserNetTest, MtuOfADriverThatTakesItBoundsWhatTheBackEndSends) {
  Make(1, 1000);
  rig_->Start();
  Offer();
  HostSend(Frame(1015));
  HostSend(Frame(1014));
  EXPECT_EQ(rig_->WaitUsed(0).written, kNetHeaderSize + 1014);
  EXPECT_EQ(ServedCounter("rx_too_long"), 1U);
  rig_->Start(kNetMtu);
  Offer();
  HostSend(Frame(1015));
  EXPECT_EQ(rig_->WaitUsed(0).written, kNetHeaderSize + 1015);
}

TEST_F(VhostUserNetTest, SuccessorHasThePairsInUse) {
  options_.frontend.reconnects = true;
  Make(3);
  std::atomic<int> lost{0};
  net_->frontend().set_lost_callback([&](const std::string&) { ++lost; });
  rig_->Start();
  ASSERT_EQ(SetPairs(6, 2), 0);
  KillBackend();
  ASSERT_TRUE(testing::WaitUntil([&] { return lost == 1; }, std::chrono::seconds(5)));
  EXPECT_EQ(SetPairs(6, 1), 0) << "for the successor";
  EXPECT_EQ(SetPairs(6, 3), 0);
  EXPECT_EQ(SetPairs(6, 2), 0);
  const auto taken = net_->frontend().Reconnect(Serve(3));
  ASSERT_TRUE(taken.has_value()) << taken.error().message();
  EXPECT_TRUE(tap_->active(1));
  EXPECT_FALSE(tap_->active(2));
  Transmit(Frame(60), 1);
  EXPECT_EQ(OnTap(1), Frame(60));
  Transmit(Frame(60), 2);
  EXPECT_EQ(ServedCounter("tx_inactive"), 1U);
  EXPECT_EQ(SetPairs(6, 3), 0);
  EXPECT_TRUE(tap_->active(2));
}

TEST_F(VhostUserNetTest, WithoutABackEndPairsStayAsTheyAre) {
  Make(2);
  rig_->Start();
  KillBackend();
  ASSERT_TRUE(rig_->WaitNeedsReset());
  EXPECT_EQ(SetPairs(4, 2), 1);
  EXPECT_EQ(SetPairs(4, 1), 0) << "they are";
  EXPECT_EQ(Command(4, NetClass::kMac, kNetMacAddrSet, Raw(MacAddress{2, 0, 0, 0, 0, 9})), 0);
}

TEST_F(VhostUserNetTest, BackEndThatDoesNotPutAPairIntoUseDoesNotStopTheOthers) {
  Make(2);
  rig_->Start();
  tap_->RefusePairs(true);
  EXPECT_EQ(SetPairs(4, 2), 0) << "SET_VRING_ENABLE itself was carried out";
  EXPECT_FALSE(tap_->active(1));
  Transmit(Frame(60));
  EXPECT_EQ(OnTap(), Frame(60));
  Transmit(Frame(61), 1);
  EXPECT_EQ(OnTap(1), Frame(61));
}

}  // namespace
}  // namespace wyvern::devices
