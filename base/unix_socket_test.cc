#include "base/unix_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

namespace wyvern {
namespace {

TEST(UnixSocketTest, DescriptorsBeyondTheLimitAreClosed) {
  const SocketPair pair = *MakeSocketPair(SOCK_SEQPACKET);
  const UniqueFd null = *Open("/dev/null", O_RDONLY);
  const std::array<FdRef, 3> fds = {null, null, null};
  ASSERT_TRUE(SendMessage(pair.first, std::as_bytes(std::span("x", 1)), fds));
  std::array<std::byte, 8> buffer{};
  const ReceivedMessage message = *ReceiveMessage(pair.second, buffer, 1);
  EXPECT_EQ(message.size, 1U);
  EXPECT_EQ(message.fds.size(), 1U);
  EXPECT_TRUE(message.truncated);
  EXPECT_EQ(fcntl(message.fds[0].get(), F_GETFD), FD_CLOEXEC);
}

TEST(UnixSocketTest, ReceivingUntilADeadline) {
  const SocketPair pair = *MakeSocketPair(SOCK_SEQPACKET);
  std::array<std::byte, 8> buffer{};
  const auto now = std::chrono::steady_clock::now();
  EXPECT_EQ(ReceiveMessageUntil(pair.second, buffer, 0, now + std::chrono::milliseconds(50))
                .error()
                .code(),
            Code::kDeadlineExceeded);
  EXPECT_GE(std::chrono::steady_clock::now(), now + std::chrono::milliseconds(50));
  ASSERT_TRUE(SendMessage(pair.first, std::as_bytes(std::span("x", 1)), {}));
  EXPECT_FALSE(ReceiveMessageUntil(pair.second, buffer, 0, now));  // too late for what is there
  EXPECT_EQ(ReceiveMessageUntil(pair.second, buffer, 0, now + std::chrono::seconds(10))->size, 1U);
}

TEST(UnixSocketTest, LongPathIsRefusedWithItsLength) {
  const auto result = ListenUnix("/tmp/" + std::string(120, 'x'), 0600);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Code::kInvalidArgument);
}

TEST(UnixSocketTest, ListenerHasTheModeAskedFor) {
  const std::string path = testing::TempDir() + "wyvern_sock_test";
  unlink(path.c_str());
  const UniqueFd listener = *ListenUnix(path, 0600);

  struct stat info {};

  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
  const UniqueFd client = *ConnectUnix(path);
  const UniqueFd server = *Accept(listener);
  EXPECT_EQ(GetPeerCredentials(server)->pid, getpid());
  unlink(path.c_str());
}

}  // namespace
}  // namespace wyvern
