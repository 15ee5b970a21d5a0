// A device program in a real cgroup: what it refuses, and to whom.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>

#include "agent/device_guard.h"
#include "agent/testing/agent_process.h"

namespace wyvern::agent {
namespace {

namespace fs = std::filesystem;

// The errno of opening `path` in a process of the cgroup.
int ErrnoWithin(const std::string& cgroup, const std::string& path) {
  const pid_t child = fork();
  if (child == 0) {
    if (!WriteFile(cgroup + "/cgroup.procs", "0")) {
      _exit(255);
    }
    _exit(open(path.c_str(), O_RDONLY | O_CLOEXEC) >= 0 ? 0 : errno);
  }
  int status = 0;
  (void)waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

class DeviceGuardTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNotHere().empty()) {
      GTEST_SKIP() << WhyNotHere();
    }
    fs::create_directories(below_);
    for (const uint32_t major : {233, 234, 254, 384, 500, 511, 512}) {
      // Without a driver: ENXIO where nobody refuses. A minor number that no driver has.
      ASSERT_EQ(mknod(Node(major).c_str(), S_IFCHR | 0600, makedev(major, 0xfff00)), 0);
    }
    ASSERT_EQ(mknod(block_.c_str(), S_IFBLK | 0600, makedev(500, 0xfff00)), 0);
  }

  void TearDown() override {
    fs::remove(below_);
    fs::remove(top_);
    fs::remove_all(nodes_);
    fs::remove(block_);
  }

  std::string Node(uint32_t major) {
    fs::create_directories(nodes_);
    return nodes_ + "/" + std::to_string(major);
  }

  const std::string top_ = "/sys/fs/cgroup/wyvern-device-guard-test";
  const std::string below_ = top_ + "/below";
  const std::string nodes_ = testing::TempDir() + "device-guard-nodes";
  const std::string block_ = nodes_ + "-block";
};

TEST_F(DeviceGuardTest, RefusesDynamicNumbersBelowTheCgroupOnly) {
  const auto refused = RefuseDynamicDevices(top_, {254, 500});
  if (!refused) {
    GTEST_SKIP() << "no device programs here: " << refused.error().message();
  }
  for (const uint32_t major : {234, 384, 511}) {
    EXPECT_EQ(ErrnoWithin(below_, Node(major)), EPERM) << major;
    EXPECT_EQ(ErrnoWithin("/sys/fs/cgroup", Node(major)), ENXIO) << major;
  }
  for (const uint32_t major : {233, 254, 500, 512}) {
    EXPECT_NE(ErrnoWithin(below_, Node(major)), EPERM) << major;
  }
  EXPECT_NE(ErrnoWithin(below_, block_), EPERM);
  EXPECT_EQ(ErrnoWithin(below_, "/dev/null"), 0);
}

}  // namespace
}  // namespace wyvern::agent
