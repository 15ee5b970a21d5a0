// How many connections are forwarded at a time, what becomes of those that are not, and of all at the end. Real namespace and BPF; the guest is
// the test's.
#include "sandbox/pod_forward.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "network/netns.h"

namespace wyvern::runtime {
namespace {

class PodForwardTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = MakeNetworkNamespace();
    if (!made.has_value()) {
      GTEST_SKIP() << made.error().message();
    }
    network_ = *std::move(made);
    loop_ = Must(LoopThread::Start("forward"));
    pool_ = std::make_unique<ttrpc::BlockingPool>("forward-pool");
    auto forward =
        PodForward::Start(*loop_, *pool_, network_, [this](uint16_t port) { return Dial(port); });
    if (!forward.has_value()) {
      GTEST_SKIP() << forward.error().message();
    }
    forward_ = *std::move(forward);
  }

  void TearDown() override {
    if (forward_ != nullptr) {
      forward_->Close();
    }
    pool_.reset();
    if (loop_ != nullptr) {
      loop_->Stop();
    }
  }

  // The guest: it refuses ports below 1000.
  Result<UniqueFd> Dial(uint16_t port) {
    if (port < 1000) {
      return Fail(Code::kUnavailable, "nobody listens");
    }
    WV_TRY(SocketPair pair, MakeSocketPair(SOCK_STREAM));
    ++dialled_;
    const std::lock_guard lock(mu_);
    guest_.push_back(std::move(pair.second));
    return std::move(pair.first);
  }

  UniqueFd Connect(uint16_t port) {
    UniqueFd fd;
    const auto done = InNetworkNamespace(network_, [&]() -> Result<> {
      fd.Reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(port);
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      return connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0
                 ? Result<>()
                 : SysError("connect");
    });
    EXPECT_TRUE(done.has_value());
    return fd;
  }

  // The errno that a read ends with; 0: the end of the stream.
  static int EndOf(const UniqueFd& fd) {
    char byte = 0;
    return recv(fd.get(), &byte, 1, 0) < 0 ? errno : 0;
  }

  void AwaitDialled(size_t count) {
    for (int i = 0; i < 1000 && dialled_ < count; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ASSERT_EQ(dialled_, count);
  }

  UniqueFd network_;
  std::unique_ptr<LoopThread> loop_;
  std::unique_ptr<ttrpc::BlockingPool> pool_;
  std::atomic<size_t> dialled_{0};
  std::mutex mu_;
  std::vector<UniqueFd> guest_;  // guarded by mu_
  std::unique_ptr<PodForward> forward_;
};

TEST_F(PodForwardTest, WhatTheGuestRefusesIsReset) {
  EXPECT_EQ(EndOf(Connect(80)), ECONNRESET);
  EXPECT_EQ(dialled_, 0U);
}

TEST_F(PodForwardTest, MoreThanTheBoundAreResetUntilOneEnds) {
  std::vector<UniqueFd> connections;
  for (size_t i = 0; i < kMaxForwards; ++i) {
    connections.push_back(Connect(8080));
  }
  AwaitDialled(kMaxForwards);
  EXPECT_EQ(EndOf(Connect(8080)), ECONNRESET);
  connections.pop_back();
  {
    const std::lock_guard lock(mu_);
    guest_.clear();  // all of them end
  }
  EXPECT_EQ(EndOf(connections[0]), 0);
  connections.clear();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  connections.push_back(Connect(8080));
  AwaitDialled(kMaxForwards + 1);
}

TEST_F(PodForwardTest, NoneIsLeftAfterClose) {
  const UniqueFd connection = Connect(8080);
  AwaitDialled(1);
  // Until the streams are joined: else it is reset.
  {
    const std::lock_guard lock(mu_);
    ASSERT_TRUE(WriteAll(guest_[0], std::string_view("x")).has_value());
  }
  char byte = 0;
  ASSERT_EQ(recv(connection.get(), &byte, 1, 0), 1);
  forward_->Close();
  EXPECT_EQ(EndOf(connection), 0);
  const std::lock_guard lock(mu_);
  EXPECT_EQ(EndOf(guest_[0]), 0);
}

}  // namespace
}  // namespace wyvern::runtime
