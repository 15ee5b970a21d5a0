#include "jail/filter.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
// Its ring header is C only, but for this.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "base/fd.h"
#include "jail/violation.h"

namespace wyvern::jail {
namespace {

// Runs `body` in a child under the filters of `kinds`; returns 128 + signal or the exit code. stderr goes to `text`.
int Under(std::initializer_list<ThreadKind> kinds, const std::function<void()>& body,
          std::string* text = nullptr) {
  const PipePair pipe = *MakePipe();
  const pid_t child = fork();
  if (child == 0) {
    dup2(pipe.write.get(), STDERR_FILENO);
    prctl(PR_SET_NAME, "probe");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (!ReportViolations()) {
      _exit(90);
    }
    for (const ThreadKind kind : kinds) {
      if (!InstallFilter(kind)) {
        _exit(91);
      }
    }
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (text != nullptr) {
    char buffer[1024];
    fcntl(pipe.read.get(), F_SETFL, O_NONBLOCK);
    const ssize_t got = read(pipe.read.get(), buffer, sizeof(buffer));
    text->assign(buffer, got > 0 ? static_cast<size_t>(got) : 0);
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

constexpr int kKilled = 128 + SIGSYS;  // both ways end with 159; only a trap says why

constexpr auto kEveryKind = {ThreadKind::kControl, ThreadKind::kVcpu,      ThreadKind::kDevice,
                             ThreadKind::kNet,     ThreadKind::kVhostNet,  ThreadKind::kMemory,
                             ThreadKind::kWindow,  ThreadKind::kWindowVcpu};

TEST(FilterTest, LethalCallsKillEveryKindOfThread) {
  for (const int number : LethalCalls()) {
    for (const ThreadKind kind : kEveryKind) {
      std::string text;
      EXPECT_EQ(
          Under(
              {ThreadKind::kControl, kind}, [number] { syscall(number, 0, 0, 0, 0, 0, 0); }, &text),
          kKilled)
          << "call " << number;
      EXPECT_EQ(text, "") << "call " << number;
    }
  }
}

TEST(FilterTest, CallOnNoListIsReportedWithThreadNumberAndArgumentsByEveryKindOfThread) {
  for (const ThreadKind kind : kEveryKind) {
    std::string text;
    EXPECT_EQ(Under(
                  {ThreadKind::kControl, kind}, [] { syscall(SYS_mkdirat, 7, 8, 9); }, &text),
              kViolationExit);
    EXPECT_NE(text.find("thread probe"), std::string::npos) << text;
    EXPECT_NE(text.find("call " + std::to_string(SYS_mkdirat) + "(0x7, 0x8, 0x9"),
              std::string::npos)
        << text;
  }
}

TEST(FilterTest, NoMemoryBecomesExecutable) {
  EXPECT_EQ(Under({ThreadKind::kControl},
                  [] {
                    (void)mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                               -1, 0);
                  }),
            kViolationExit);
  EXPECT_EQ(Under({ThreadKind::kControl},
                  [] { mprotect(reinterpret_cast<void*>(4096), 4096, PROT_WRITE | PROT_EXEC); }),
            kViolationExit);
}

TEST(FilterTest, ThreadsStartButProcessesDoNot) {
  EXPECT_EQ(Under({ThreadKind::kControl},
                  [] {
                    bool ran = false;
                    std::thread([&ran] { ran = true; }).join();
                    _exit(ran ? 0 : 1);
                  }),
            0);
  EXPECT_EQ(Under({ThreadKind::kControl}, [] { syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); }),
            kViolationExit);
  EXPECT_EQ(Under({ThreadKind::kControl},
                  [] { _exit(syscall(SYS_clone3, nullptr, 0) == -1 && errno == ENOSYS ? 0 : 1); }),
            0);
}

TEST(FilterTest, IoUringCannotBeSetUpAfterwards) {
  EXPECT_EQ(
      Under({ThreadKind::kControl},
            [] { _exit(syscall(SYS_io_uring_setup, 8, nullptr) == -1 && errno == EPERM ? 0 : 1); }),
      0);
}

TEST(FilterTest, FilesAreNotFoundInsteadOfOpened) {
  EXPECT_EQ(
      Under({ThreadKind::kControl},
            [] {
              _exit(open("/etc/passwd", O_RDONLY | O_CLOEXEC) == -1 && errno == ENOENT ? 0 : 1);
            }),
      0);
}

TEST(FilterTest, SignalsToOtherProcessesAreRefused) {
  EXPECT_EQ(Under({ThreadKind::kControl}, [] { syscall(SYS_tgkill, 1, 1, 0); }), kViolationExit);
  EXPECT_EQ(Under({ThreadKind::kControl}, [] { syscall(SYS_kill, 1, 0); }), kViolationExit);
}

TEST(FilterTest, VcpuThreadMayRunButNotBuildMachinesNorTouchFiles) {
  const auto filters = {ThreadKind::kControl, ThreadKind::kVcpu};
  // The descriptor is bad: what counts is that the call reaches the kernel.
  EXPECT_EQ(Under(filters, [] { _exit(ioctl(-1, KVM_RUN, 0) == -1 && errno == EBADF ? 0 : 1); }),
            0);
  EXPECT_EQ(Under(filters, [] { ioctl(-1, KVM_CREATE_VM, 0); }), kViolationExit);
  EXPECT_EQ(Under(filters, [] { ioctl(-1, KVM_SET_USER_MEMORY_REGION, 0); }), kViolationExit);
  EXPECT_EQ(Under(filters, [] { preadv2(-1, nullptr, 0, 0, 0); }), kViolationExit);
}

TEST(FilterTest, DeviceThreadMayDoFileIoButNotRunVcpusOrStartThreads) {
  const auto filters = {ThreadKind::kControl, ThreadKind::kDevice};
  EXPECT_EQ(
      Under(filters, [] { _exit(pwritev2(-1, nullptr, 0, 0, 0) == -1 && errno == EBADF ? 0 : 1); }),
      0);
  EXPECT_EQ(Under(filters, [] { ioctl(-1, KVM_SIGNAL_MSI, 0); }), kViolationExit);
  EXPECT_EQ(Under(filters, [] { ioctl(-1, KVM_RUN, 0); }), kViolationExit);
  EXPECT_EQ(Under(filters,
                  [] { syscall(SYS_clone, CLONE_VM | CLONE_THREAD | CLONE_SIGHAND, 0, 0, 0, 0); }),
            kViolationExit);
}

TEST(FilterTest, OnlyVhostNetThreadsTellTheKernelOfRingsAndOfNothingElse) {
  const auto backend = [] {
    _exit(ioctl(-1, VHOST_NET_SET_BACKEND, 0) == -1 && errno == EBADF ? 0 : 1);
  };
  EXPECT_EQ(Under({ThreadKind::kControl, ThreadKind::kVhostNet}, backend), 0);
  for (const ThreadKind kind : {ThreadKind::kNet, ThreadKind::kDevice, ThreadKind::kVcpu}) {
    EXPECT_EQ(Under({ThreadKind::kControl, kind}, backend), kViolationExit);
  }
  // The owner is fixed where the device is made; a log would be written by the kernel (CVE-2019-14835); the others are of other devices.
  for (const unsigned long request :
       {static_cast<unsigned long>(VHOST_SET_OWNER), static_cast<unsigned long>(VHOST_RESET_OWNER),
        static_cast<unsigned long>(VHOST_SET_LOG_BASE),
        static_cast<unsigned long>(VHOST_SET_LOG_FD),
        static_cast<unsigned long>(VHOST_SET_BACKEND_FEATURES),
        static_cast<unsigned long>(VHOST_VSOCK_SET_RUNNING),
        static_cast<unsigned long>(KVM_SIGNAL_MSI)}) {
    EXPECT_EQ(Under({ThreadKind::kControl, ThreadKind::kVhostNet}, [=] { ioctl(-1, request, 0); }),
              kViolationExit)
        << request;
  }
  EXPECT_EQ(
      Under({ThreadKind::kControl, ThreadKind::kVhostNet}, [] { pwritev2(-1, nullptr, 0, 0, 0); }),
      kViolationExit);
}

TEST(FilterTest, OnlyThreadsWithAWindowMoveItAndLookAtFileSystems) {
  const auto move = [] {
    _exit(ioctl(-1, KVM_SET_USER_MEMORY_REGION, 0) == -1 && errno == EBADF ? 0 : 1);
  };
  const auto look = [] {
    _exit(syscall(SYS_fstatfs, -1, nullptr) == -1 && errno == EBADF ? 0 : 1);
  };
  EXPECT_EQ(Under({ThreadKind::kControl, ThreadKind::kWindowVcpu}, move), 0);
  EXPECT_EQ(Under({ThreadKind::kControl, ThreadKind::kWindowVcpu}, look), kViolationExit);
  EXPECT_EQ(Under({ThreadKind::kControl, ThreadKind::kWindow}, look), 0);
  EXPECT_EQ(Under({ThreadKind::kControl, ThreadKind::kWindow}, move), kViolationExit);
  for (const ThreadKind kind : {ThreadKind::kVcpu, ThreadKind::kDevice}) {
    EXPECT_EQ(Under({ThreadKind::kControl, kind}, look), kViolationExit);
    EXPECT_EQ(Under({ThreadKind::kControl, kind}, move), kViolationExit);
  }
}

TEST(FilterTest, SocketsAreMadeInPairsByTheControlThreadsOnly) {
  const auto pair = [] {
    int ends[2];
    _exit(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 ? 0 : 1);
  };
  EXPECT_EQ(Under({ThreadKind::kControl}, pair), 0);
  EXPECT_EQ(Under({ThreadKind::kControl, ThreadKind::kDevice}, pair), kViolationExit);
  EXPECT_EQ(Under({ThreadKind::kControl},
                  [] {
                    int ends[2];
                    (void)socketpair(AF_INET, SOCK_STREAM, 0, ends);
                  }),
            kViolationExit);
  EXPECT_EQ(Under({ThreadKind::kControl}, [] { (void)socket(AF_UNIX, SOCK_STREAM, 0); }),
            kViolationExit);
}

TEST(FilterTest, LimitsCanBeReadNotRaised) {
  EXPECT_EQ(Under({ThreadKind::kControl},
                  [] {
                    char limit[16];
                    _exit(syscall(SYS_prlimit64, 0, 7, nullptr, limit) == 0 ? 0 : 1);
                  }),
            0);
  EXPECT_EQ(Under({ThreadKind::kControl},
                  [] {
                    char limit[16] = {};
                    syscall(SYS_prlimit64, 0, 7, limit, nullptr);
                  }),
            kViolationExit);
}

}  // namespace
}  // namespace wyvern::jail
