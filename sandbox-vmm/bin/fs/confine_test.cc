#include "fs/confine.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <string>

#include "base/event_fd.h"
#include "fs/testing/fuse_client.h"
#include "jail/violation.h"
#include "vhost_user/state_file.h"

namespace wyvern::fs_process {
namespace {

// The wait status of a child that runs `body` and exits with what it returns.
int InChild(const std::function<int()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::_exit(body());
  }
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  return status;
}

class ConfineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) {
      GTEST_SKIP() << "needs root";
    }
  }
};

bool Opens(const char* path) {
  const UniqueFd fd(::openat(AT_FDCWD, path, O_PATH | O_CLOEXEC));
  return fd.valid();
}

TEST_F(ConfineTest, RootIsEmptyAndNothingElseIsReachable) {
  const int status = InChild([] {
    const auto limit = Confine({.open_files = 4096});
    if (!limit || *limit != 4096) {
      return 1;
    }
    // The working directory is that of our descriptors, and its parent is itself.
    const UniqueFd root(::open("/", O_PATH | O_CLOEXEC));
    if (!Opens(std::to_string(root.get()).c_str())) {
      return 2;
    }
    for (const char* path :
         {"/etc", "/proc", "../status", "../../self", "../../sys", "../root", "..//../etc"}) {
      if (Opens(path)) {
        return 3;
      }
    }
    DIR* dir = ::opendir("/");
    int entries = 0;
    // NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is ours alone
    while (::readdir(dir) != nullptr) {
      ++entries;
    }
    return entries == 2 ? 0 : 4;
  });
  EXPECT_EQ(status, 0);
}

TEST_F(ConfineTest, CapabilitiesAreThoseOfFiles) {
  const int status = InChild([] {
    if (!Confine({.open_files = 1024})) {
      return 1;
    }
    uint64_t bounding = 0;
    for (int i = 0; i < 63 && ::prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; ++i) {
      bounding |= uint64_t{::prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1} << static_cast<unsigned>(i);
    }
    uint64_t kept = 0;
    for (const int capability : KeptCapabilities()) {
      kept |= uint64_t{1} << static_cast<unsigned>(capability);
    }
    if (bounding != kept || ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 ||
        ::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0) {
      return 2;
    }
    return ::mount("tmpfs", "/", "tmpfs", 0, nullptr) == -1 && errno == EPERM ? 0 : 3;
  });
  EXPECT_EQ(status, 0);
}

TEST_F(ConfineTest, SharedTreeIsTheRootAndHasNoWayOut) {
  const int status = InChild([] {
    auto tree = CloneSharedTree("/usr", true);
    if (!tree || !Confine({.shared_tree = *tree, .open_files = 1024})) {
      return 1;
    }
    if (!Opens("/bin") || Opens("/usr") || Opens("/../etc/passwd")) {
      return 2;
    }
    if (::openat(tree->get(), "../etc/passwd", O_RDONLY | O_CLOEXEC) >= 0) {
      return 3;
    }
    return ::mkdir("/new", 0755) == -1 && errno == EROFS ? 0 : 4;
  });
  EXPECT_EQ(status, 0);
}

class FilterTest : public ConfineTest {
 protected:
#ifdef WV_SANITIZED
  void SetUp() override { GTEST_SKIP() << "a sanitizer's run time makes calls of its own"; }
#endif

  // How the process ends that makes this call under the filter.
  static int Forbidden(const std::function<void()>& call,
                       const fs::SessionFeatures& features = {}) {
    return InChild([&] {
      ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
      if (!jail::ReportViolations() || !InstallFilter(features)) {
        return 1;
      }
      call();
      return 0;
    });
  }

  static bool Passes(const std::function<void()>& call, const fs::SessionFeatures& features) {
    const int status = Forbidden(call, features);
    if (status == 0) {
      return true;
    }
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == jail::kViolationExit) << status;
    return false;
  }
};

TEST_F(FilterTest, WhatOnlyAnAttackerCallsKills) {
  const std::function<void()> calls[] = {
      [] { ::syscall(SYS_execve, "/bin/true", nullptr, nullptr); },
      [] { ::mount("a", "/", "tmpfs", 0, nullptr); },
      [] { ::socket(AF_INET, SOCK_STREAM, 0); },
      [] { ::syscall(SYS_open_by_handle_at, -1, nullptr, 0); },
      [] { ::unshare(CLONE_NEWUSER); },
      [] { ::syscall(SYS_io_uring_setup, 1, nullptr); },
      [] { ::syscall(SYS_ptrace, 0, 0, 0, 0); },
      [] { ::syscall(SYS_bpf, 0, nullptr, 0); },
  };
  for (const auto& call : calls) {
    const int status = Forbidden(call);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << status;
  }
}

TEST_F(FilterTest, WhatNeedsNoCallEndsTheProcessWithAReport) {
  const std::function<void()> calls[] = {
      [] { ::syscall(SYS_uname, nullptr); },
      [] { ::syscall(SYS_kill, 1, 0); },
      [] { ::syscall(SYS_clone, 0, 0, 0, 0, 0); },
      [] { ::syscall(SYS_setuid, 0); },
      [] { ::syscall(SYS_chroot, "/"); },
      [] { ::syscall(SYS_name_to_handle_at, -1, "", nullptr, nullptr, 0); },
      [] { ::syscall(SYS_mmap, nullptr, 4096, 7, 0x22, -1, 0); },
      [] { ::syscall(SYS_mprotect, nullptr, 4096, 4); },
      [] { ::syscall(SYS_connect, 3, nullptr, 0); },
      [] { ::fcntl(0, F_SETFL, 0); },
      [] { ::syscall(SYS_memfd_create, "m", 0); },
  };
  for (const auto& call : calls) {
    const int status = Forbidden(call);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == jail::kViolationExit) << status;
  }
}

// The descriptors are bad: what counts is whether the call reaches the kernel.
TEST_F(FilterTest, CallsForLocksNeedTheirOption) {
  const auto by_descriptor = [](int command) {
    return [command] { ::syscall(SYS_fcntl, -1, command, nullptr); };
  };
  const std::function<void()> whole = [] { ::flock(-1, LOCK_EX); };
  const std::function<void()> timer = [] {
    ::syscall(SYS_timerfd_settime, -1, 0, nullptr, nullptr);
  };
  const fs::SessionFeatures none;
  const fs::SessionFeatures posix{.posix_locks = true};
  const fs::SessionFeatures open_files{.flock_locks = true};
  const fs::SessionFeatures all{.posix_locks = true, .flock_locks = true, .posix_acl = true};
  for (const int command : {F_OFD_GETLK, F_OFD_SETLK}) {
    EXPECT_FALSE(Passes(by_descriptor(command), none)) << command;
    EXPECT_TRUE(Passes(by_descriptor(command), posix)) << command;
    EXPECT_FALSE(Passes(by_descriptor(command), open_files)) << command;
  }
  EXPECT_FALSE(Passes(whole, none));
  EXPECT_FALSE(Passes(whole, posix));
  EXPECT_TRUE(Passes(whole, open_files));
  EXPECT_FALSE(Passes(timer, none));
  EXPECT_FALSE(Passes(timer, {.posix_acl = true}));
  EXPECT_TRUE(Passes(timer, posix));
  EXPECT_TRUE(Passes(timer, open_files));
  // Nothing waits in the kernel, and a process' own locks are nobody's.
  for (const int command : {F_OFD_SETLKW, F_GETLK, F_SETLK, F_SETLKW, F_SETLEASE, F_SETOWN}) {
    EXPECT_FALSE(Passes(by_descriptor(command), all)) << command;
  }
  EXPECT_FALSE(Passes([] { ::syscall(SYS_timerfd_create, CLOCK_MONOTONIC, 0); }, all));
}

using fs::testing::Body;

// Every operation of the server under confinement and filter; the child's exit code is the line
// that failed.
// NOLINTNEXTLINE(readability-function-size): one call after the other
int EveryOperation(const std::string& directory) {
  auto tree = CloneSharedTree(directory, false);
  if (!tree || !Confine({.shared_tree = *tree, .open_files = 1024})) {
    return 1;
  }
  fs::FileServerOptions options;
  options.root = *Open("/", O_RDONLY | O_DIRECTORY);
  options.descriptor_path = "";
  auto server = fs::FileServer::Create(std::move(options));
  if (!server || !jail::ReportViolations() || !InstallFilter({})) {
    return 2;
  }
  fs::testing::FuseClient client(**server);
  if (client.Init().error != 0) {
    return 3;
  }
  client.uid = 1000;
  client.gid = 1000;
  uint64_t node = 0;
  const uint64_t fh = client.Create(1, "f", O_RDWR, 04755, &node);
  if (fh == 0 || client.Write(node, fh, 0, "data", O_APPEND, FUSE_WRITE_KILL_SUIDGID) != 4 ||
      client.Read(node, fh, 0, 16) != "data") {
    return 4;
  }
  fuse_setattr_in attr{};
  attr.valid = FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME_NOW;
  attr.mode = 0640;
  attr.uid = 5;
  attr.gid = 6;
  attr.size = 2;
  const fuse_attr now = client.Call(FUSE_SETATTR, node, Body().Put(attr)).As<fuse_attr_out>().attr;
  if (now.uid != 5 || now.size != 2 || (now.mode & 07777U) != 0640) {
    return 5;
  }
  const uint64_t sub = client.Mkdir(1, "d");
  fuse_mknod_in device{};
  device.mode = S_IFCHR | 0600;
  fuse_link_in link{};
  link.oldnodeid = node;
  fuse_rename2_in rename{};
  rename.newdir = sub;
  client.uid = 0;
  client.gid = 0;
  if (client.Call(FUSE_SYMLINK, sub, Body().Name("l").Name("t")).error != 0 ||
      client.Call(FUSE_READLINK, client.Lookup(sub, "l"), Body()).payload != "t" ||
      client.Call(FUSE_LINK, sub, Body().Put(link).Name("h")).error != 0 ||
      client.Call(FUSE_RENAME2, 1, Body().Put(rename).Name("f").Name("g")).error != 0 ||
      client.ReadAll(sub, true).size() != 5 || client.ReadAll(sub, false).size() != 5 ||
      client.Unlink(sub, "l") != 0) {
    return 6;
  }
  client.Call(FUSE_MKNOD, sub, Body().Put(device).Name("c"));
  fuse_fallocate_in allocate{};
  allocate.fh = fh;
  allocate.length = 8192;
  fuse_lseek_in seek{};
  seek.fh = fh;
  seek.whence = SEEK_HOLE;
  fuse_copy_file_range_in copy{};
  copy.fh_in = fh;
  copy.fh_out = client.Create(1, "copy", O_RDWR, 0644);
  copy.len = 100;
  fuse_fsync_in sync{};
  sync.fh = fh;
  fuse_flush_in flush{};
  flush.fh = fh;
  const fuse_setxattr_in set{1, 0, 0, 0};
  const std::string set_head(reinterpret_cast<const char*>(&set), FUSE_COMPAT_SETXATTR_IN_SIZE);
  fuse_getxattr_in get{};
  get.size = 64;
  fuse_create_in create{};
  create.flags = O_RDWR;
  for (const int error :
       {client.Call(FUSE_FALLOCATE, node, Body().Put(allocate)).error,
        client.Call(FUSE_LSEEK, node, Body().Put(seek)).error,
        client.Call(FUSE_COPY_FILE_RANGE, node, Body().Put(copy)).error,
        client.Call(FUSE_FSYNC, node, Body().Put(sync)).error,
        client.Call(FUSE_FLUSH, node, Body().Put(flush)).error,
        client.Call(FUSE_STATFS, node, Body()).error,
        client.Call(FUSE_SYNCFS, 1, Body().Put(uint64_t{0})).error,
        client.Call(FUSE_SETXATTR, node, Body().Raw(set_head).Name("user.k").Raw("v")).error,
        client.Call(FUSE_GETXATTR, node, Body().Put(get).Name("user.k")).error,
        client.Call(FUSE_LISTXATTR, node, Body().Put(get)).error,
        client.Call(FUSE_REMOVEXATTR, node, Body().Name("user.k")).error,
        client.Call(FUSE_TMPFILE, 1, Body().Put(create).Name("#t")).error}) {
    // Not every file system has all of it; the filter would have ended the process.
    if (error != 0 && error != EOPNOTSUPP) {
      return 100 + error % 100;
    }
  }
  // To another server and back, with a file without a name that is lost.
  const auto state = (*server)->Save();
  if (!state || !(*server)->Load(*state, fs::OnLoss::kGuestError)) {
    return 7;
  }
  const auto sealed = vhost_user::SealState(std::as_bytes(std::span("state")));
  if (!sealed || !vhost_user::IsSealed(*sealed)) {
    return 9;
  }
  return client.Read(node, fh, 0, 2) == "da" ? 0 : 8;
}

// The same of what options add.
int EveryOptionalOperation(const std::string& directory) {
  auto tree = CloneSharedTree(directory, false);
  if (!tree || !Confine({.shared_tree = *tree, .open_files = 1024})) {
    return 1;
  }
  fs::FileServerOptions options;
  options.root = *Open("/", O_RDONLY | O_DIRECTORY);
  options.descriptor_path = "";
  options.features = {.posix_locks = true, .flock_locks = true, .posix_acl = true};
  const fs::SessionFeatures features = options.features;
  auto server = fs::FileServer::Create(std::move(options));
  const auto timer = TimerFd::Create();
  if (!server || !timer || !jail::ReportViolations() || !InstallFilter(features)) {
    return 2;
  }
  fs::testing::FuseClient client(**server);
  if (client.Init().error != 0 || !timer->Arm(std::chrono::seconds(1))) {
    return 3;
  }
  fuse_lk_in lock{};
  uint64_t node = 0;
  lock.fh = client.Create(1, "f", O_RDWR, 0644, &node);
  lock.owner = 7;
  lock.lk = {0, 99, F_WRLCK, 0};
  fuse_lk_in whole = lock;
  whole.lk_flags = FUSE_LK_FLOCK;
  fuse_flush_in flush{};
  flush.fh = lock.fh;
  flush.lock_owner = lock.owner;
  fuse_release_in release{};
  release.fh = lock.fh;
  release.release_flags = FUSE_RELEASE_FLOCK_UNLOCK;
  fuse_getxattr_in get{};
  get.size = 64;
  int step = 10;
  for (const int error : {client.Call(FUSE_SETLK, node, Body().Put(lock)).error,
                          client.Call(FUSE_GETLK, node, Body().Put(lock)).error,
                          client.Call(FUSE_SETLKW, node, Body().Put(whole)).error,
                          client.Call(FUSE_FLUSH, node, Body().Put(flush)).error,
                          client.Call(FUSE_RELEASE, node, Body().Put(release)).error}) {
    ++step;
    if (error != 0) {
      return step;
    }
  }
  // There is none, or the file system knows no ACLs.
  const int acl =
      client.Call(FUSE_GETXATTR, node, Body().Put(get).Name("system.posix_acl_access")).error;
  return acl == ENODATA || acl == EOPNOTSUPP ? 0 : 4;
}

class OperationFilterTest : public FilterTest {
 protected:
  void SetUp() override {
    FilterTest::SetUp();
    if (!IsSkipped()) {
      ASSERT_NE(::mkdtemp(directory_.data()), nullptr);
      ASSERT_EQ(::chmod(directory_.c_str(), 0777), 0);
    }
  }

  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  std::string directory_ = "/tmp/wyvern-confine-XXXXXX";
};

TEST_F(OperationFilterTest, EveryFileOperationPasses) {
  EXPECT_EQ(InChild([&] { return EveryOperation(directory_); }), 0);
}

TEST_F(OperationFilterTest, EveryOperationOfAnOptionPasses) {
  EXPECT_EQ(InChild([&] { return EveryOptionalOperation(directory_); }), 0);
}

}  // namespace
}  // namespace wyvern::fs_process
