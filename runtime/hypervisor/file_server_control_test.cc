#include "hypervisor/file_server_control.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <optional>
#include <thread>

#include "base/unix_socket.h"

namespace wyvern::runtime {
namespace {

class FileServerControlTest : public ::testing::Test {
 protected:
  FileServerControlTest() {
    SocketPair pair = *MakeSocketPair(SOCK_SEQPACKET);
    control_.emplace(std::move(pair.first), std::chrono::milliseconds(200));
    peer_ = std::move(pair.second);
  }

  void Say(std::string_view answer) {
    EXPECT_TRUE(SendMessage(peer_, std::as_bytes(std::span(answer)), {}).has_value());
  }

  std::string Heard() {
    std::array<std::byte, 512> buffer{};
    const auto received = ReceiveMessage(peer_, buffer, 0);
    return received ? std::string(reinterpret_cast<const char*>(buffer.data()), received->size)
                    : "";
  }

  Code CodeOf(const std::string& command) {
    const auto result = control_->Command(command);
    return result ? Code::kOk : result.error().code();
  }

  std::optional<FileServerControl> control_;
  UniqueFd peer_;
};

TEST_F(FileServerControlTest, LateAnswerIsNotTheNextOnes) {
  EXPECT_EQ(CodeOf("attach a 0 rw"), Code::kDeadlineExceeded);
  EXPECT_EQ(Heard(), "1 attach a 0 rw");
  Say("1 ok");
  EXPECT_EQ(CodeOf("detach b"), Code::kDeadlineExceeded);  // without an answer of its own
  EXPECT_EQ(Heard(), "2 detach b");
  Say("2 ok");
  Say("3 error no such export");
  const auto refused = control_->Command("detach c");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kInternal);
  EXPECT_THAT(refused.error().message(), ::testing::HasSubstr("no such export"));
  Say("4 ok");
  EXPECT_EQ(CodeOf("ping"), Code::kOk);
}

TEST_F(FileServerControlTest, WhatIsNoAnswerIsAnError) {
  uint64_t number = 0;
  for (const std::string answer : {"", "ok", " ok", "0 ok", "x", "99999999999999999999999 ok"}) {
    ++number;
    Say(answer.empty() ? fmt::format("{}", number) : answer);
    EXPECT_EQ(CodeOf("ping"), Code::kInternal) << answer;
  }
  Say(fmt::format("{} ok", number + 2));
  EXPECT_EQ(CodeOf("ping"), Code::kInternal);
  Say(fmt::format("{} {}", number + 2, std::string(5000, 'x')));
  EXPECT_EQ(CodeOf("ping"), Code::kInternal);
  shutdown(peer_.get(), SHUT_WR);
  EXPECT_EQ(CodeOf("ping"), Code::kUnavailable);
}

TEST_F(FileServerControlTest, PeerThatNeverStopsAnsweringHoldsNobodyUp) {
  EXPECT_EQ(CodeOf("ping"), Code::kDeadlineExceeded);
  std::atomic<bool> stop{false};
  std::thread flood([&] {
    while (!stop) {
      (void)SendMessage(peer_, std::as_bytes(std::span(std::string_view("1 ok"))), {});
    }
  });
  EXPECT_EQ(CodeOf("ping"), Code::kDeadlineExceeded);
  stop = true;
  shutdown(peer_.get(), SHUT_RDWR);
  flood.join();
}

}  // namespace
}  // namespace wyvern::runtime
