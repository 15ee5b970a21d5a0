#include "agent/console_port.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <vector>

#include "agent/testing/fake_kernel.h"

namespace wyvern::agent {
namespace {

using namespace std::chrono_literals;

// A pseudo terminal in raw mode stands for the port: a character device with two ends, whose other end is the host's. (What it cannot do
// is come back after it was hung up, as a port can.)
class ConsolePortTest : public testing::Test {
 protected:
  void SetUp() override {
    loop_ = *EventLoop::Create();
    host_ = UniqueFd(posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
    std::array<char, 64> name{};
    if (!host_.valid() || grantpt(host_.get()) != 0 || unlockpt(host_.get()) != 0 ||
        ptsname_r(host_.get(), name.data(), name.size()) != 0) {
      GTEST_SKIP() << "no pseudo terminal can be made here: errno " << errno;
    }
    termios raw{};
    tcgetattr(host_.get(), &raw);
    cfmakeraw(&raw);
    ASSERT_EQ(tcsetattr(host_.get(), TCSANOW, &raw), 0);
    // Holds the terminal up while nobody else has it open.
    keep_ = UniqueFd(open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
    kernel_.Link("/dev/vport1p1", name.data());
    port_.emplace(*loop_, kernel_, [this](UniqueFd stream) -> Result<> {
      streams_.push_back(std::move(stream));
      return {};
    });
  }

  void AddPort() { kernel_.Put("/sys/class/virtio-ports/vport1p1/name", "wyvern.upcall\n"); }

  void Spin() {
    for (int i = 0; i < 20; ++i) {
      (void)loop_->RunOnce(1ms);
    }
  }

  static std::string PreambleOf(char fill) {
    upcall::Nonce nonce;
    nonce.fill(std::byte(static_cast<unsigned char>(fill)));
    const upcall::Preamble preamble = upcall::MakePreamble(nonce);
    return {reinterpret_cast<const char*>(preamble.data()), preamble.size()};
  }

  void FromHost(const std::string& bytes) {
    ASSERT_TRUE(WriteAll(host_, bytes));
    Spin();
  }

  // What is there now; "<end>" for the end of it.
  static std::string TakeAll(FdRef fd) {
    std::string out;
    std::array<char, 4096> buffer{};
    for (;;) {
      const ssize_t count = read(fd.get(), buffer.data(), buffer.size());
      if (count <= 0) {
        return count == 0 || errno == EIO ? out + "<end>" : out;
      }
      out.append(buffer.data(), static_cast<size_t>(count));
    }
  }

  FakeKernel kernel_;
  std::unique_ptr<EventLoop> loop_;
  UniqueFd host_;
  UniqueFd keep_;
  std::vector<UniqueFd> streams_;
  std::optional<ConsolePort> port_;
};

TEST_F(ConsolePortTest, OpensWhenThePortComes) {
  kernel_.Put("/sys/class/virtio-ports/vport1p0/name", "another\n");
  port_->Look();
  EXPECT_FALSE(port_->is_open());
  AddPort();
  port_->Look();
  EXPECT_TRUE(port_->is_open());
  port_->Look();
  EXPECT_TRUE(streams_.empty());
}

TEST_F(ConsolePortTest, OfManySessionsThatWaitNoTwoAreServedInOneTurn) {
  AddPort();
  port_->Look();
  std::string given_up;
  for (char fill = 'a'; fill < 'y'; ++fill) {
    given_up += PreambleOf(fill) + "hello";
  }
  ASSERT_TRUE(WriteAll(host_, given_up + PreambleOf('z') + "now"));
  for (int i = 0; i < 60; ++i) {
    const size_t before = streams_.size();
    ASSERT_TRUE(loop_->RunOnce(1ms));
    EXPECT_LE(streams_.size(), before + 1);
  }
  ASSERT_FALSE(streams_.empty());
  EXPECT_EQ(TakeAll(streams_.back()), "now");
  for (size_t i = 0; i + 1 < streams_.size(); ++i) {
    EXPECT_TRUE(TakeAll(streams_[i]).ends_with("<end>"));
  }
}

TEST_F(ConsolePortTest, WhatComesBeforeAPreambleIsDropped) {
  AddPort();
  port_->Look();
  FromHost("left from the last session");
  EXPECT_TRUE(streams_.empty());
  FromHost(PreambleOf('a') + "hello");
  ASSERT_EQ(streams_.size(), 1U);
  EXPECT_EQ(TakeAll(streams_[0]), "hello");
  EXPECT_EQ(TakeAll(host_), PreambleOf('a'));
  ASSERT_TRUE(WriteAll(streams_[0], "answer"));
  Spin();
  EXPECT_EQ(TakeAll(host_), "answer");
}

TEST_F(ConsolePortTest, PreambleInPartsIsOne) {
  AddPort();
  port_->Look();
  for (const char byte : PreambleOf('a')) {
    FromHost(std::string(1, byte));
  }
  FromHost("x");
  // A terminal's bytes come by a work queue of the kernel, which on a busy machine is later than a turn of the loop.
  std::string taken;
  for (int i = 0; i < 250 && taken.empty(); ++i) {
    Spin();
    taken = streams_.empty() ? "" : TakeAll(streams_[0]);
  }
  EXPECT_EQ(taken, "x");
  EXPECT_EQ(streams_.size(), 1U);
}

// The VMM was cut off within a message and is back, without our having seen it go.
TEST_F(ConsolePortTest, NewPreambleEndsTheOldSession) {
  AddPort();
  port_->Look();
  FromHost(PreambleOf('a') + "half a mess");
  FromHost(PreambleOf('b') + "new");
  ASSERT_EQ(streams_.size(), 2U);
  EXPECT_EQ(TakeAll(streams_[0]), "half a mess<end>");
  EXPECT_EQ(TakeAll(streams_[1]), "new");
  EXPECT_EQ(TakeAll(host_), PreambleOf('a') + PreambleOf('b'));
  (void)send(streams_[0].get(), "late", 4, MSG_NOSIGNAL);
  ASSERT_TRUE(WriteAll(streams_[1], "answer"));
  Spin();
  EXPECT_EQ(TakeAll(host_), "answer");
}

TEST_F(ConsolePortTest, SessionThatTheServerEndsIsFollowedByTheNext) {
  AddPort();
  port_->Look();
  FromHost(PreambleOf('a'));
  ASSERT_EQ(streams_.size(), 1U);
  streams_[0].Reset();
  Spin();
  FromHost("into the void");
  EXPECT_TRUE(port_->is_open());
  FromHost(PreambleOf('b') + "x");
  ASSERT_EQ(streams_.size(), 2U);
  EXPECT_EQ(TakeAll(streams_[1]), "x");
}

TEST_F(ConsolePortTest, ServerThatTakesNoMoreGetsNoSession) {
  port_.emplace(*loop_, kernel_, [](UniqueFd) { return Fail(Code::kResourceExhausted, "full"); });
  AddPort();
  port_->Look();
  FromHost(PreambleOf('a') + "x");
  EXPECT_EQ(TakeAll(host_), "");
  EXPECT_TRUE(port_->is_open());
}

// A terminal that was hung up is as a port whose host has closed its end: EPOLLHUP, and read gives 0.
TEST_F(ConsolePortTest, HostThatClosesItsEndEndsTheSessionAndThePortStaysOpen) {
  AddPort();
  port_->Look();
  FromHost(PreambleOf('a') + "x");
  ASSERT_EQ(streams_.size(), 1U);
  host_.Reset();
  Spin();
  EXPECT_TRUE(port_->is_open());
  EXPECT_EQ(TakeAll(streams_[0]), "x<end>");
  // The hang-up lasts, and does not turn the loop.
  bool fired = false;
  int turns = 0;
  loop_->After(100ms, [&fired] { fired = true; });
  while (!fired) {
    (void)loop_->RunOnce(1000ms);
    ++turns;
  }
  EXPECT_LE(turns, 3);
}

TEST_F(ConsolePortTest, MuchBothWaysArrivesWhole) {
  AddPort();
  port_->Look();
  FromHost(PreambleOf('a'));
  ASSERT_EQ(streams_.size(), 1U);
  ASSERT_EQ(TakeAll(host_), PreambleOf('a'));
  std::string down;
  for (size_t i = 0; i < 300'000; ++i) {
    down.push_back(static_cast<char>('a' + i % 23));
  }
  const std::string up(down.rbegin(), down.rend());
  size_t down_sent = 0;
  size_t up_sent = 0;
  std::string down_got;
  std::string up_got;
  const auto put = [](FdRef fd, const std::string& bytes, size_t& sent) {
    const ssize_t count = write(fd.get(), bytes.data() + sent, bytes.size() - sent);
    sent += count > 0 ? static_cast<size_t>(count) : 0;
  };
  for (int i = 0; i < 20'000 && (down_got.size() < down.size() || up_got.size() < up.size()); ++i) {
    put(host_, down, down_sent);
    put(streams_[0], up, up_sent);
    (void)loop_->RunOnce(0ms);
    down_got += TakeAll(streams_[0]);
    up_got += TakeAll(host_);
  }
  EXPECT_EQ(down_got, down);
  EXPECT_EQ(up_got, up);
}

TEST_F(ConsolePortTest, ServerThatDoesNotReadHoldsTheHostUpAndLosesNothing) {
  AddPort();
  port_->Look();
  FromHost(PreambleOf('a'));
  ASSERT_EQ(streams_.size(), 1U);
  const std::string part(1000, 'x');
  size_t sent = 0;
  // What fits on the way: the terminal's buffer, ours, the socket's.
  for (int refused = 0; refused < 100 && sent < 2'000'000;) {
    const ssize_t count = write(host_.get(), part.data(), part.size());
    sent += count > 0 ? static_cast<size_t>(count) : 0;
    refused = count > 0 ? 0 : refused + 1;
    (void)loop_->RunOnce(1ms);
  }
  EXPECT_LT(sent, 1'000'000U);
  size_t got = 0;
  for (int i = 0; i < 5000 && got < sent; ++i) {
    got += TakeAll(streams_[0]).size();
    (void)loop_->RunOnce(1ms);
  }
  EXPECT_EQ(got, sent);
}

}  // namespace
}  // namespace wyvern::agent
