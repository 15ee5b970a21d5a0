// Connections to the loopback of a namespace, whatever the port, are ours, and no others. The kernel's own programs of BPF; needs root.
#include "network/loopback.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include <mutex>
#include <thread>
#include <vector>

#include "base/loop_thread.h"
#include "base/testing/must.h"
#include "network/netns.h"

namespace wyvern::runtime {
namespace {

class LoopbackTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = MakeNetworkNamespace();
    if (!made.has_value()) {
      GTEST_SKIP() << made.error().message();
    }
    namespace_ = *std::move(made);
    loop_ = Must(LoopThread::Start("loopback"));
    std::string why;
    loop_->Call([&] {
      auto started = LoopbackListener::Start(loop_->loop(), namespace_,
                                             [this](UniqueFd connection, uint16_t port) {
                                               const std::lock_guard lock(mu_);
                                               accepted_.emplace_back(std::move(connection), port);
                                             });
      if (started.has_value()) {
        listener_ = std::move(*started);
      } else {
        why = started.error().message();
      }
    });
    if (!why.empty()) {
      GTEST_SKIP() << why;
    }
  }

  void TearDown() override {
    if (loop_ != nullptr) {
      loop_->Call([this] { listener_.reset(); });
      loop_->Stop();
    }
  }

  // 0, or the errno. The connection is kept.
  int Connect(int family, const char* address, uint16_t port, int type = SOCK_STREAM) {
    int error = 0;
    Must(InNetworkNamespace(namespace_, [&]() -> Result<> {
      sockaddr_in v4{};
      v4.sin_family = AF_INET;
      v4.sin_port = htons(port);
      sockaddr_in6 v6{};
      v6.sin6_family = AF_INET6;
      v6.sin6_port = htons(port);
      const bool is_v4 = family == AF_INET;
      inet_pton(family, address,
                is_v4 ? static_cast<void*>(&v4.sin_addr) : static_cast<void*>(&v6.sin6_addr));
      UniqueFd fd(socket(family, type | SOCK_CLOEXEC, 0));
      if (connect(fd.get(),
                  is_v4 ? reinterpret_cast<sockaddr*>(&v4) : reinterpret_cast<sockaddr*>(&v6),
                  is_v4 ? sizeof(v4) : sizeof(v6)) != 0) {
        error = errno;
      }
      kept_.push_back(std::move(fd));
      return {};
    }));
    return error;
  }

  std::vector<uint16_t> Ports(size_t count) {
    std::vector<uint16_t> ports;
    for (int i = 0; i < 500 && ports.size() < count; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      const std::lock_guard lock(mu_);
      ports.clear();
      for (const auto& [connection, port] : accepted_) {
        ports.push_back(port);
      }
    }
    return ports;
  }

  static void Must(Result<> result) { ASSERT_TRUE(result.has_value()); }

  template <typename T>
  static T Must(Result<T> result) {
    return wyvern::Must(std::move(result));
  }

  UniqueFd namespace_;
  std::unique_ptr<LoopThread> loop_;
  std::unique_ptr<LoopbackListener> listener_;
  std::mutex mu_;
  std::vector<std::pair<UniqueFd, uint16_t>> accepted_;  // guarded by mu_
  std::vector<UniqueFd> kept_;
};

TEST_F(LoopbackTest, EveryPortOfBothFamiliesIsTaken) {
  EXPECT_EQ(Connect(AF_INET, "127.0.0.1", 80), 0);
  EXPECT_EQ(Connect(AF_INET, "127.9.9.9", 65535), 0);
  std::vector<uint16_t> wanted = {80, 65535};
  if (Connect(AF_INET6, "::1", 8080) == 0) {
    wanted.push_back(8080);
  }
  ASSERT_EQ(Ports(wanted.size()), wanted);
  const std::lock_guard lock(mu_);
  ASSERT_TRUE(WriteAll(accepted_[0].first, std::string_view("hello")).has_value());
  accepted_[0].first.Reset();
  EXPECT_EQ(Must(ReadToEnd(kept_[0], 100)), "hello");
}

TEST_F(LoopbackTest, NothingElseIs) {
  EXPECT_NE(Connect(AF_INET, "10.1.2.3", 80), 0);
  EXPECT_EQ(Connect(AF_INET, "127.0.0.1", 53, SOCK_DGRAM), 0);
  ASSERT_FALSE(WriteAll(kept_.back(), std::string_view("x")).has_value() &&
               WriteAll(kept_.back(), std::string_view("x")).has_value())
      << "UDP is refused, as before";
  // The host's own loopback is another.
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(1);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_NE(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_TRUE(Ports(0).empty());
}

int64_t CpuMilliseconds() {
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return used.tv_sec * 1000 + used.tv_nsec / 1'000'000;
}

TEST_F(LoopbackTest, WithoutDescriptorsItRestsAndTakesThemLater) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  // The client's descriptor is the last that there can be: none is left for the connection.
  UniqueFd fd;
  Must(InNetworkNamespace(namespace_, [&]() -> Result<> {
    fd.Reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return {};
  }));
  // All below `fd` are in use: what was free is filled.
  std::vector<UniqueFd> filled;
  const int highest = fcntl(fd.get(), F_DUPFD_CLOEXEC, 200);
  ASSERT_GE(highest, 0);
  filled.emplace_back(highest);
  for (int next = 0; (next = fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)) >= 0;) {
    if (next > highest) {
      close(next);
      break;
    }
    filled.emplace_back(next);
  }
  rlimit none = before;
  none.rlim_cur = static_cast<rlim_t>(highest) + 1;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(80);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  static_cast<void>(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  const int64_t start = CpuMilliseconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  const int64_t used = CpuMilliseconds() - start;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_LT(used, 200) << "the loop turned";
  EXPECT_EQ(Ports(1), std::vector<uint16_t>{80});
}

TEST_F(LoopbackTest, NothingIsLeftAtItsEnd) {
  loop_->Call([this] { listener_.reset(); });
  EXPECT_EQ(Connect(AF_INET, "127.0.0.1", 80), ECONNREFUSED);
}

}  // namespace
}  // namespace wyvern::runtime
