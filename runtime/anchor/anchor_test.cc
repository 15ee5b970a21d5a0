// The real program, as the runtime starts it.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <sstream>

#include "anchor/protocol.h"
#include "base/subprocess.h"
#include "base/unix_socket.h"
#include "network/netns.h"
#include "storage/exports.h"
#include "storage/testing/private_mounts.h"

namespace wyvern::runtime {
namespace {

class AnchorTest : public PrivateMountsTest {
 protected:
  // Starts it with what is given; the answer it sends is in `answer_`.
  Result<Subprocess> Start(const char* letters, FdRef network, FdRef root) {
    WV_TRY(SocketPair life, MakeSocketPair(SOCK_STREAM));
    SpawnOptions options;
    options.argv = {WV_ANCHOR, letters};
    options.fds = {{kAnchorLifeFd, life.second}};
    if (network.valid()) {
      options.fds.emplace_back(kAnchorNetworkFd, network);
    }
    if (root.valid()) {
      options.fds.emplace_back(kAnchorRootFd, root);
    }
    WV_TRY(Subprocess process, Subprocess::Spawn(options));
    life.second.Reset();
    life_ = std::move(life.first);
    std::byte buffer[256];
    WV_TRY(const size_t size, ReadSome(life_, buffer));
    answer_.assign(reinterpret_cast<const char*>(buffer), size);
    return process;
  }

  static ino_t NetworkOf(const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
    return info.st_ino;
  }

  UniqueFd life_;
  std::string answer_;
};

TEST_F(AnchorTest, RefusesWhatIsNoNamespace) {
  const auto null = Open("/dev/null", O_RDONLY);
  auto process = Start("n", *null, FdRef(-1));
  ASSERT_TRUE(process.has_value());
  EXPECT_EQ(answer_, "joining the network namespace: 022");
  EXPECT_EQ(process->Wait()->AsShell(), 1);
}

TEST_F(AnchorTest, ShowsNetworkAndRootAndNothingElse) {
  const std::string root = MakeDir("root");
  MakeFile("root/inside", "yes");
  auto network = MakeNetworkNamespace();
  auto tree = CloneTree(root, {.read_only = true});
  ASSERT_TRUE(network.has_value() && tree.has_value());
  auto process = Start("nr", *network, *tree);
  ASSERT_TRUE(process.has_value());
  ASSERT_EQ(answer_, std::string(1, '\0'));
  const std::string proc = "/proc/" + std::to_string(process->pid());
  EXPECT_EQ(NetworkOf(proc + "/ns/net"),
            NetworkOf("/proc/self/fd/" + std::to_string(network->get())));
  EXPECT_EQ(*ReadFile(proc + "/root/inside"), "yes");
  EXPECT_FALSE(WriteFile(proc + "/root/new", "x").has_value());
  // One mount only: nothing of the host is held.
  const std::string mounts = *ReadFile(proc + "/mountinfo");
  EXPECT_EQ(std::count(mounts.begin(), mounts.end(), '\n'), 1) << mounts;
  EXPECT_THAT(
      *ReadFile(proc + "/status"),
      testing::AllOf(testing::HasSubstr("CapEff:\t0000000000000000"),
                     testing::HasSubstr("CapBnd:\t0000000000000000"),
                     testing::HasSubstr("NoNewPrivs:\t1"), testing::HasSubstr("Seccomp:\t1")));
}

TEST_F(AnchorTest, EndsWithItsRuntime) {
  auto process = Start("", FdRef(-1), FdRef(-1));
  ASSERT_TRUE(process.has_value());
  life_.Reset();
  EXPECT_EQ(process->Wait()->AsShell(), 0);
}

TEST_F(AnchorTest, ProportionalSetSizeIsTiny) {
  auto process = Start("", FdRef(-1), FdRef(-1));
  ASSERT_TRUE(process.has_value());
  std::istringstream lines(*ReadFile("/proc/" + std::to_string(process->pid()) + "/smaps_rollup"));
  long pss_kib = -1;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("Pss:")) {
      pss_kib = std::stol(line.substr(4));
    }
  }
  RecordProperty("pss_kib", static_cast<int>(pss_kib));
  EXPECT_GT(pss_kib, 0);
  EXPECT_LE(pss_kib, 300);
}

}  // namespace
}  // namespace wyvern::runtime
