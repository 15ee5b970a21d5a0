// What is told of changes of a real namespace, which the test makes itself.
#include <gmock/gmock.h>

#include <chrono>

#include "network/testing/pod.h"
#include "network/watch.h"

namespace wyvern::runtime {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

class WatchTest : public PodTest {
 protected:
  void Watch() {
    auto watch = NetworkWatch::Start(*loop_, pod_, [this] { ++told_; });
    ASSERT_TRUE(watch.has_value()) << watch.error().message();
    watch_ = *std::move(watch);
  }

  void RunFor(milliseconds time) {
    const auto until = steady_clock::now() + time;
    while (steady_clock::now() < until) {
      ASSERT_TRUE(loop_->RunOnce(milliseconds(10)).has_value());
    }
  }

  // Of eth0, which has just come up, Linux tells within a second (linkwatch), too.
  void Settle() {
    do {
      told_ = 0;
      RunFor(milliseconds(1200));
    } while (told_ != 0);
  }

  // Until something was told, and then as long as more might be.
  int Told() {
    const auto until = steady_clock::now() + milliseconds(5000);
    while (told_ == 0 && steady_clock::now() < until) {
      EXPECT_TRUE(loop_->RunOnce(milliseconds(10)).has_value());
    }
    RunFor(3 * kNetworkSettles);
    return std::exchange(told_, 0);
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  std::unique_ptr<NetworkWatch> watch_;
  int told_ = 0;
};

TEST_F(WatchTest, LinksAddressesAndRoutesAreTold) {
  Ip("addr add 10.1.0.2/16 dev eth0");
  RunFor(milliseconds(50));
  Watch();
  for (const char* change :
       {"link set eth0 mtu 1400", "link add br0 type bridge", "addr add 10.5.0.2/16 dev eth0",
        "addr add fd00::2/64 dev eth0 nodad", "route add 10.7.0.0/16 dev eth0",
        "route add fd07::/64 dev eth0", "link del br0"}) {
    Ip(change);
    EXPECT_GE(Told(), 1) << change;
  }
}

TEST_F(WatchTest, StepsOfOneChangeAreToldOnce) {
  Watch();
  Settle();
  std::string lines;
  for (int i = 0; i < 50; ++i) {
    lines += "addr add 10.1.0." + std::to_string(i + 1) + "/16 dev eth0\n";
  }
  IpBatch(lines);
  EXPECT_EQ(Told(), 1);
}

TEST_F(WatchTest, MessagesThatWereLostAreAChange) {
  Watch();
  Settle();
  std::string lines;
  for (int i = 0; i < 4000; ++i) {  // several times what the socket holds
    lines += "route add 10." + std::to_string(i / 256) + "." + std::to_string(i % 256) +
             ".0/24 dev eth0\n";
  }
  IpBatch(lines);
  EXPECT_GE(Told(), 1);
  Ip("route flush table main");
  EXPECT_GE(Told(), 1);  // it still hears
}

TEST_F(WatchTest, NothingIsToldAfterItsEndAndItMayEndWhenItTells) {
  Watch();
  Settle();
  Ip("link set eth0 mtu 1400");
  watch_.reset();
  RunFor(3 * kNetworkSettles);
  EXPECT_EQ(told_, 0);
  auto watch = NetworkWatch::Start(*loop_, pod_, [this] {
    ++told_;
    watch_.reset();
  });
  ASSERT_TRUE(watch.has_value());
  watch_ = *std::move(watch);
  Ip("link set eth0 mtu 1300");
  EXPECT_EQ(Told(), 1);
  EXPECT_EQ(watch_, nullptr);
}

TEST_F(WatchTest, AnotherNamespaceIsNotHeard) {
  Watch();
  Settle();
  ASSERT_TRUE(RunIn(outside_, {kIp, "link", "add", "br0", "type", "bridge"}).has_value());
  RunFor(3 * kNetworkSettles);
  EXPECT_EQ(told_, 0);
}

}  // namespace
}  // namespace wyvern::runtime
