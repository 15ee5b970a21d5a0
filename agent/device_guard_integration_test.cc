// A device program in a real cgroup: what it refuses, and to whom.
#include <fcntl.h>
#include <gtest/gtest.h>
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

// The errno of opening /dev/null in a process of the cgroup.
int ErrnoWithin(const std::string& cgroup) {
  const pid_t child = fork();
  if (child == 0) {
    if (!WriteFile(cgroup + "/cgroup.procs", "0")) {
      _exit(255);
    }
    _exit(open("/dev/null", O_RDWR | O_CLOEXEC) >= 0 ? 0 : errno);
  }
  int status = 0;
  (void)waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(DeviceGuardTest, RefusesTheMajorBelowTheCgroupOnly) {
  if (!WhyNotHere().empty()) {
    GTEST_SKIP() << WhyNotHere();
  }
  constexpr uint32_t kMemMajor = 1;
  const std::string top = "/sys/fs/cgroup/wyvern-device-guard-test";
  const std::string below = top + "/below";
  fs::create_directories(below);
  const auto refused = RefuseDevices(top, kMemMajor);
  if (!refused) {
    fs::remove(below);
    fs::remove(top);
    GTEST_SKIP() << "no device programs here: " << refused.error().message();
  }
  EXPECT_EQ(ErrnoWithin(below), EPERM);
  EXPECT_EQ(ErrnoWithin("/sys/fs/cgroup"), 0);
  fs::remove(below);
  fs::remove(top);
}

}  // namespace
}  // namespace wyvern::agent
