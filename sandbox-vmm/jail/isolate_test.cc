#include "jail/isolate.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include <linux/capability.h>

namespace wyvern::jail {
namespace {

constexpr uid_t kUid = 65533;

// Runs `body` in an isolated child; the exit code is its result.
int Isolated(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    const auto done = IsolateProcess({.uid = kUid, .gid = kUid, .max_open_files = 64});
    _exit(done ? body() : 99);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

class IsolateTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) {
      GTEST_SKIP() << "needs root: it makes namespaces";
    }
  }
};

TEST_F(IsolateTest, RootIsEmptyAndReadOnly) {
  EXPECT_EQ(Isolated([] {
              DIR* root = opendir("/");
              int entries = 0;
              // NOLINTNEXTLINE(concurrency-mt-unsafe): a child with one thread
              while (readdir(root) != nullptr) {
                ++entries;
              }
              return entries;  // . and ..
            }),
            2);
  EXPECT_EQ(Isolated([] { return mkdir("/x", 0700) == -1 && errno == EROFS ? 0 : 1; }), 0);
  EXPECT_EQ(Isolated([] { return access("/../../etc/passwd", F_OK) == -1 ? 0 : 1; }), 0);
}

TEST_F(IsolateTest, NoUidNoCapabilityNoNewPrivileges) {
  EXPECT_EQ(
      Isolated([] {
        uid_t real = 0;
        uid_t effective = 0;
        uid_t saved = 0;
        getresuid(&real, &effective, &saved);
        return real == kUid && effective == kUid && saved == kUid && getgroups(0, nullptr) == 0 ? 0
                                                                                                : 1;
      }),
      0);
  EXPECT_EQ(Isolated([] {
              __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
              __user_cap_data_struct data[2] = {};
              syscall(SYS_capget, &header, data);
              const auto any = data[0].effective | data[0].permitted | data[0].inheritable |
                               data[1].effective | data[1].permitted | data[1].inheritable;
              return any == 0 && prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN) == 0 ? 0 : 1;
            }),
            0);
  EXPECT_EQ(Isolated([] {
              return setuid(0) == -1 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 1;
            }),
            0);
}

TEST_F(IsolateTest, NetworkIsEmptyAndDumpsAreOff) {
  EXPECT_EQ(
      Isolated([] { return if_nametoindex("eth0") == 0 && if_nametoindex("lo") == 1 ? 0 : 1; }), 0);
  EXPECT_EQ(Isolated([] { return prctl(PR_GET_DUMPABLE, 0, 0, 0, 0); }), 0);
}

TEST_F(IsolateTest, RootIsRefusedAsTheSandboxUid) {
  EXPECT_EQ(IsolateProcess({.uid = 0, .gid = 0}).error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace wyvern::jail
