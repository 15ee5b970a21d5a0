// Pins the allow lists: what each kind of thread may call, in words. A list that grows is a visible change of this table.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
// Its ring header is C only, but for this.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "jail/filter.h"

namespace wyvern::jail {
namespace {

using Lines = std::set<std::string>;

struct Named {
  uint64_t value;
  std::string_view name;
};

// "NAME": any arguments. "NAME [i]&mask==value": under this condition. "ioctl NAME": this request. "fcntl NAME": this command.
constexpr auto kEveryThread = std::to_array<std::string_view>({
    // clang-format off
    "brk", "madvise", "mmap [2]&0x4==0x0", "mprotect [2]&0x4==0x0", "mremap", "munmap",
    "clock_gettime", "clock_nanosleep", "gettimeofday",
    "exit", "exit_group", "futex", "getpid", "getrandom", "gettid", "prctl PR_GET_NAME",
    "prctl PR_SET_NAME", "restart_syscall", "rseq", "rt_sigprocmask", "rt_sigreturn",
    "sched_getaffinity", "sched_yield", "set_robust_list",
    "tgkill [0]&0xffffffff==our pid",
    "close", "fstat", "newfstatat", "read", "write", "writev",
    "epoll_create1", "epoll_ctl", "epoll_wait", "eventfd2", "poll",
    "fcntl F_DUPFD_CLOEXEC", "fcntl F_GETFD", "fcntl F_GETFL", "fcntl F_SETFD", "fcntl F_SETFL",
    "getsockopt", "recvmsg", "sendmsg", "sendto", "shutdown",
// clang-format on
#ifdef WYVERN_SANITIZED
    "nanosleep",
    "pipe2",
    "sigaltstack",  // not in any product
#endif
});

constexpr auto kVcpuThread = std::to_array<std::string_view>({
    "ioctl KVM_GET_MP_STATE",
    "ioctl KVM_GET_REGS",
    "ioctl KVM_GET_SREGS",
    "ioctl KVM_IOEVENTFD",
    "ioctl KVM_IRQFD",
    "ioctl KVM_KVMCLOCK_CTRL",
    "ioctl KVM_RUN",
    "ioctl KVM_SIGNAL_MSI",
    "ioctl KVM_SET_GSI_ROUTING",
});

constexpr auto kDeviceThread = std::to_array<std::string_view>(
    {"fallocate", "fdatasync", "io_uring_enter", "preadv2", "pwritev2", "readv"});

constexpr auto kUpcallThread = std::to_array<std::string_view>({"recvfrom"});

constexpr auto kNetThread = std::to_array<std::string_view>(
    {"ioctl TUNSETCARRIER", "ioctl TUNSETOFFLOAD", "ioctl TUNSETQUEUE"});

constexpr auto kVhostNetThread = std::to_array<std::string_view>({
    "ioctl VHOST_GET_VRING_BASE",
    "ioctl VHOST_NET_SET_BACKEND",
    "ioctl VHOST_SET_FEATURES",
    "ioctl VHOST_SET_MEM_TABLE",
    "ioctl VHOST_SET_VRING_ADDR",
    "ioctl VHOST_SET_VRING_BASE",
    "ioctl VHOST_SET_VRING_CALL",
    "ioctl VHOST_SET_VRING_ERR",
    "ioctl VHOST_SET_VRING_KICK",
    "ioctl VHOST_SET_VRING_NUM",
});

constexpr auto kReadsPackets = std::to_array<std::string_view>({"readv"});

constexpr auto kMemoryThread =
    std::to_array<std::string_view>({"ioctl KVM_SET_USER_MEMORY_REGION"});

constexpr auto kWindowThread = std::to_array<std::string_view>({"fstatfs"});

constexpr auto kControlThread = std::to_array<std::string_view>({
    // clang-format off
    "clone [0]&0x10900==0x10900", "seccomp [0]&0xffffffff==0x1",
    "fcntl F_ADD_SEALS", "ftruncate", "lseek", "memfd_create", "pread64",
    "getpeername", "getsockname", "setsockopt", "socketpair [0]&0xffffffff==0x1",
    "io_uring_register", "prlimit64 [2]&0xffffffffffffffff==0x0", "rt_sigaction",
    "sched_getparam", "sched_getscheduler", "sysinfo", "uname",
    "ioctl KVM_CHECK_EXTENSION", "ioctl KVM_CREATE_VCPU", "ioctl KVM_CREATE_VM",
    "ioctl KVM_ENABLE_CAP", "ioctl KVM_GET_API_VERSION", "ioctl KVM_GET_SUPPORTED_CPUID",
    "ioctl KVM_GET_VCPU_MMAP_SIZE", "ioctl KVM_SET_CPUID2", "ioctl KVM_SET_IDENTITY_MAP_ADDR",
    "ioctl KVM_SET_MSRS", "ioctl KVM_SET_REGS", "ioctl KVM_SET_SREGS", "ioctl KVM_SET_TSS_ADDR",
    "ioctl KVM_SET_USER_MEMORY_REGION",
    "ioctl TUNGETIFF", "ioctl TUNSETVNETHDRSZ", "ioctl VHOST_GET_FEATURES", "ioctl VHOST_SET_OWNER",
    // clang-format on
});

// Requests with an array behind a header carry the header's size in their number (KVM API), whatever sizeof says in C++.
constexpr auto kRequests = std::to_array<Named>({
    {KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION"},
    {KVM_CREATE_VCPU, "KVM_CREATE_VCPU"},
    {KVM_CREATE_VM, "KVM_CREATE_VM"},
    {KVM_ENABLE_CAP, "KVM_ENABLE_CAP"},
    {KVM_GET_API_VERSION, "KVM_GET_API_VERSION"},
    {KVM_GET_MP_STATE, "KVM_GET_MP_STATE"},
    {KVM_GET_REGS, "KVM_GET_REGS"},
    {KVM_GET_SREGS, "KVM_GET_SREGS"},
    {_IOWR(KVMIO, 0x05, uint64_t), "KVM_GET_SUPPORTED_CPUID"},
    {KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE"},
    {KVM_IOEVENTFD, "KVM_IOEVENTFD"},
    {KVM_IRQFD, "KVM_IRQFD"},
    {KVM_KVMCLOCK_CTRL, "KVM_KVMCLOCK_CTRL"},
    {KVM_RUN, "KVM_RUN"},
    {_IOW(KVMIO, 0x90, uint64_t), "KVM_SET_CPUID2"},
    {_IOW(KVMIO, 0x6a, uint64_t), "KVM_SET_GSI_ROUTING"},
    {KVM_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR"},
    {_IOW(KVMIO, 0x89, uint64_t), "KVM_SET_MSRS"},
    {KVM_SET_REGS, "KVM_SET_REGS"},
    {KVM_SET_SREGS, "KVM_SET_SREGS"},
    {KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR"},
    {KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION"},
    {KVM_SIGNAL_MSI, "KVM_SIGNAL_MSI"},
    {TUNGETIFF, "TUNGETIFF"},
    {TUNSETCARRIER, "TUNSETCARRIER"},
    {TUNSETOFFLOAD, "TUNSETOFFLOAD"},
    {TUNSETQUEUE, "TUNSETQUEUE"},
    {TUNSETVNETHDRSZ, "TUNSETVNETHDRSZ"},
    {VHOST_GET_FEATURES, "VHOST_GET_FEATURES"},
    {VHOST_GET_VRING_BASE, "VHOST_GET_VRING_BASE"},
    {VHOST_NET_SET_BACKEND, "VHOST_NET_SET_BACKEND"},
    {VHOST_SET_FEATURES, "VHOST_SET_FEATURES"},
    {VHOST_SET_MEM_TABLE, "VHOST_SET_MEM_TABLE"},
    {VHOST_SET_OWNER, "VHOST_SET_OWNER"},
    {VHOST_SET_VRING_ADDR, "VHOST_SET_VRING_ADDR"},
    {VHOST_SET_VRING_BASE, "VHOST_SET_VRING_BASE"},
    {VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL"},
    {VHOST_SET_VRING_ERR, "VHOST_SET_VRING_ERR"},
    {VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK"},
    {VHOST_SET_VRING_NUM, "VHOST_SET_VRING_NUM"},
});

constexpr auto kFcntlCommands = std::to_array<Named>({
    {F_ADD_SEALS, "F_ADD_SEALS"},
    {F_DUPFD_CLOEXEC, "F_DUPFD_CLOEXEC"},
    {F_GETFD, "F_GETFD"},
    {F_GETFL, "F_GETFL"},
    {F_SETFD, "F_SETFD"},
    {F_SETFL, "F_SETFL"},
});

constexpr auto kPrctlOptions =
    std::to_array<Named>({{PR_GET_NAME, "PR_GET_NAME"}, {PR_SET_NAME, "PR_SET_NAME"}});

constexpr uint64_t kLow32Bits = 0xffffffff;

std::string CallName(int number) {
  const std::unique_ptr<char, decltype(&std::free)> name(
      seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number), &std::free);
  return name != nullptr ? name.get() : fmt::format("call {}", number);
}

std::string InWords(const CallRule& rule, const ArgumentRule& argument) {
  const auto named = [&](unsigned index, std::span<const Named> names) {
    const auto found = std::ranges::find(names, argument.value, &Named::value);
    return argument.index == index && argument.mask == kLow32Bits && found != names.end()
               ? fmt::format(" {}", found->name)
               : std::string();
  };
  std::string words;
  if (rule.number == SYS_ioctl) {
    words = named(1, kRequests);
  } else if (rule.number == SYS_fcntl) {
    words = named(1, kFcntlCommands);
  } else if (rule.number == SYS_prctl) {
    words = named(0, kPrctlOptions);
  } else if (rule.number == SYS_tgkill && argument.value == static_cast<uint64_t>(getpid())) {
    words = fmt::format(" [{}]&{:#x}==our pid", argument.index, argument.mask);
  }
  return !words.empty()
             ? words
             : fmt::format(" [{}]&{:#x}=={:#x}", argument.index, argument.mask, argument.value);
}

Lines ListOf(ThreadKind kind) {
  Lines lines;
  for (const CallRule& rule : AllowedCalls(kind)) {
    std::string line = CallName(rule.number);
    for (const ArgumentRule& argument : rule.arguments) {
      line += InWords(rule, argument);
    }
    EXPECT_TRUE(lines.insert(line).second) << "twice: " << line;
  }
  return lines;
}

Lines Together(std::initializer_list<std::span<const std::string_view>> parts) {
  Lines all;
  for (const auto part : parts) {
    all.insert(part.begin(), part.end());
  }
  return all;
}

TEST(AllowedCallsTest, VcpuThreadsHaveExactlyTheirList) {
  EXPECT_EQ(ListOf(ThreadKind::kVcpu), Together({kEveryThread, kVcpuThread}));
}

TEST(AllowedCallsTest, DeviceThreadsHaveExactlyTheirListAndNoIoctl) {
  EXPECT_EQ(ListOf(ThreadKind::kDevice), Together({kEveryThread, kDeviceThread}));
}

TEST(AllowedCallsTest, UpcallThreadsTalkOnASocketAndNoMore) {
  EXPECT_EQ(ListOf(ThreadKind::kUpcall), Together({kEveryThread, kUpcallThread}));
}

TEST(AllowedCallsTest, NetAndMemoryThreadsHaveADevicesListAndTheirIoctls) {
  EXPECT_EQ(ListOf(ThreadKind::kNet), Together({kEveryThread, kDeviceThread, kNetThread}));
  EXPECT_EQ(ListOf(ThreadKind::kMemory), Together({kEveryThread, kDeviceThread, kMemoryThread}));
}

// No file, no disk: of a device's calls it has the one that empties a tap.
TEST(AllowedCallsTest, VhostNetThreadsHaveTheRingsAndTheTapsIoctls) {
  EXPECT_EQ(ListOf(ThreadKind::kVhostNet),
            Together({kEveryThread, kReadsPackets, kNetThread, kVhostNetThread}));
}

TEST(AllowedCallsTest, ThreadsWithAWindowHaveOneCallMore) {
  EXPECT_EQ(ListOf(ThreadKind::kWindow), Together({kEveryThread, kDeviceThread, kWindowThread}));
  EXPECT_EQ(ListOf(ThreadKind::kWindowVcpu), Together({kEveryThread, kVcpuThread, kMemoryThread}));
}

// The control filter is the base of every thread's, so it holds theirs too.
TEST(AllowedCallsTest, ControlThreadsHaveTheirListAndTheOthers) {
  EXPECT_EQ(ListOf(ThreadKind::kControl),
            Together({kEveryThread, kVcpuThread, kDeviceThread, kUpcallThread, kNetThread,
                      kVhostNetThread, kWindowThread, kControlThread}));
}

}  // namespace
}  // namespace wyvern::jail
