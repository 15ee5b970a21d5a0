// What is no tap. Real ones: net_tap_integration_test.cc.
#include "net/kernel_tap.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/socket.h>

#include "base/event_fd.h"
#include "base/unix_socket.h"

namespace wyvern::devices {
namespace {

Code CreateFrom(UniqueFd fd) {
  std::vector<UniqueFd> queues;
  queues.push_back(std::move(fd));
  auto tap = KernelTap::Create(std::move(queues));
  return tap ? Code::kOk : tap.error().code();
}

TEST(KernelTapTest, Cve202010942_OnlyTapsAreTaken) {
  EXPECT_EQ(CreateFrom(std::move(MakeSocketPair(SOCK_SEQPACKET)->first)), Code::kInvalidArgument);
  EXPECT_EQ(CreateFrom(UniqueFd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0))),
            Code::kInvalidArgument);
  EXPECT_EQ(CreateFrom(*MakeMemfd("file", 4096)), Code::kInvalidArgument);
  EXPECT_EQ(CreateFrom(std::move(*EventFd::Create()).Take()), Code::kInvalidArgument);
  EXPECT_EQ(CreateFrom(*Open("/dev/null", O_RDWR)), Code::kInvalidArgument);
  EXPECT_EQ(CreateFrom(UniqueFd()), Code::kInvalidArgument);
}

TEST(KernelTapTest, TapWithoutAnInterfaceIsNone) {
  auto tun = Open("/dev/net/tun", O_RDWR);
  if (!tun) {
    GTEST_SKIP() << tun.error().message();
  }
  EXPECT_EQ(CreateFrom(*std::move(tun)), Code::kInvalidArgument);
}

TEST(KernelTapTest, NoQueuesAndTooManyAreRefused) {
  EXPECT_FALSE(KernelTap::Create({}));
  EXPECT_FALSE(KernelTap::Create(std::vector<UniqueFd>(KernelTap::kMaxPairs + 1)));
}

}  // namespace
}  // namespace wyvern::devices
