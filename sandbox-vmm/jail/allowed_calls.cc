// The allow lists, by intention: what somebody in the process issues once the filter is in force, and no more. A call that a new feature
// needs goes to the narrowest kind, and to the table of allowed_calls_test.cc.
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
// Its ring header is C only, but for this.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "jail/filter.h"

namespace wyvern::jail {

namespace {

// ioctl numbers are 32 bits; the kernel ignores the upper half of the register.
constexpr uint64_t kLow32 = 0xffffffffULL;

// KVM API, 4.46, 4.20, 4.12: the number encodes the size of the header before the array. In C++ the kernel's own structs are larger
// (their flexible array member is not empty there), so the macros of linux/kvm.h give numbers that KVM does not know.
constexpr uint64_t kKvmGetSupportedCpuid = _IOWR(KVMIO, 0x05, uint64_t);
constexpr uint64_t kKvmSetCpuid2 = _IOW(KVMIO, 0x90, uint64_t);
constexpr uint64_t kKvmSetMsrs = _IOW(KVMIO, 0x89, uint64_t);
constexpr uint64_t kKvmSetGsiRouting = _IOW(KVMIO, 0x6a, uint64_t);

CallRule Always(int number) {
  return CallRule{number, {}};
}

CallRule When(int number, unsigned index, uint64_t mask, uint64_t value) {
  return CallRule{number, {ArgumentRule{index, mask, value}}};
}

CallRule Ioctl(uint64_t request) {
  return When(SYS_ioctl, 1, kLow32, request & kLow32);
}

void Append(std::vector<CallRule>& to, std::vector<CallRule> from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

// What malloc, futexes, clocks, messages of a library that aborts (writev) and thread ends need in every thread.
std::vector<CallRule> Basics() {
  std::vector<CallRule> rules;
  for (const int number : {SYS_futex,
                           SYS_brk,
                           SYS_munmap,
                           SYS_madvise,
                           SYS_mremap,
                           SYS_exit,
                           SYS_exit_group,
                           SYS_rt_sigreturn,
                           SYS_rt_sigprocmask,
                           SYS_gettid,
                           SYS_getpid,
                           SYS_sched_yield,
                           SYS_clock_gettime,
                           SYS_clock_nanosleep,
                           SYS_gettimeofday,
                           SYS_getrandom,
                           SYS_restart_syscall,
                           SYS_set_robust_list,
                           SYS_rseq,
                           SYS_sched_getaffinity,
                           SYS_read,
                           SYS_write,
                           SYS_writev,
                           SYS_close}) {
    rules.push_back(Always(number));
  }
#ifdef WYVERN_SANITIZED
  // The sanitizers' runtime: stacks of signal handlers, its locks, and whether memory can be read (a write of it into a pipe).
  for (const int number : {SYS_sigaltstack, SYS_nanosleep, SYS_pipe2}) {
    rules.push_back(Always(number));
  }
#endif
  // No memory becomes executable.
  rules.push_back(When(SYS_mmap, 2, PROT_EXEC, 0));
  rules.push_back(When(SYS_mprotect, 2, PROT_EXEC, 0));
  // Signals go to our own threads only.
  rules.push_back(When(SYS_tgkill, 0, kLow32, static_cast<uint64_t>(getpid())));
  // A thread names itself; the report of a forbidden call asks for the name.
  rules.push_back(When(SYS_prctl, 0, kLow32, PR_SET_NAME));
  rules.push_back(When(SYS_prctl, 0, kLow32, PR_GET_NAME));
  return rules;
}

// Waiting for and talking on descriptors that are already there.
std::vector<CallRule> Descriptors() {
  std::vector<CallRule> rules;
  for (const int number :
       {SYS_epoll_wait, SYS_epoll_ctl, SYS_epoll_create1, SYS_poll, SYS_eventfd2, SYS_recvmsg,
        SYS_sendmsg, SYS_sendto, SYS_shutdown, SYS_getsockopt, SYS_fstat, SYS_newfstatat}) {
    rules.push_back(Always(number));
  }
  for (const int command : {F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC}) {
    rules.push_back(When(SYS_fcntl, 1, kLow32, static_cast<uint64_t>(command)));
  }
  return rules;
}

// What carries a disk's data (the thread pool's calls, io_uring on rings that exist), a packet or a console's bytes.
std::vector<CallRule> DeviceData() {
  std::vector<CallRule> rules;
  for (const int number :
       {SYS_readv, SYS_preadv2, SYS_pwritev2, SYS_fdatasync, SYS_fallocate, SYS_io_uring_enter}) {
    rules.push_back(Always(number));
  }
  return rules;
}

// Running, registers for a fault's text, whether the vCPU is off line, doorbells and interrupt routes that the guest sets up.
std::vector<CallRule> VcpuIoctls() {
  std::vector<CallRule> rules;
  for (const uint64_t request :
       {uint64_t{KVM_RUN}, uint64_t{KVM_GET_REGS}, uint64_t{KVM_GET_SREGS},
        uint64_t{KVM_GET_MP_STATE}, uint64_t{KVM_KVMCLOCK_CTRL}, uint64_t{KVM_IRQFD},
        uint64_t{KVM_IOEVENTFD}, kKvmSetGsiRouting, uint64_t{KVM_SIGNAL_MSI}}) {
    rules.push_back(Ioctl(request));
  }
  return rules;
}

// What a tap that is open lets its holder change, without a capability: how packets look, which queues are in use, the link.
std::vector<CallRule> TapIoctls() {
  std::vector<CallRule> rules;
  for (const uint64_t request :
       {uint64_t{TUNSETOFFLOAD}, uint64_t{TUNSETQUEUE}, uint64_t{TUNSETCARRIER}}) {
    rules.push_back(Ioctl(request));
  }
  return rules;
}

// The rings of a vhost-net device: told to the kernel, given a tap, and taken back. Neither its dirty log nor its IOTLB.
std::vector<CallRule> VhostNetIoctls() {
  std::vector<CallRule> rules;
  for (const uint64_t request : {uint64_t{VHOST_SET_FEATURES}, uint64_t{VHOST_SET_MEM_TABLE},
                                 uint64_t{VHOST_SET_VRING_NUM}, uint64_t{VHOST_SET_VRING_BASE},
                                 uint64_t{VHOST_GET_VRING_BASE}, uint64_t{VHOST_SET_VRING_ADDR},
                                 uint64_t{VHOST_SET_VRING_KICK}, uint64_t{VHOST_SET_VRING_CALL},
                                 uint64_t{VHOST_SET_VRING_ERR}, uint64_t{VHOST_NET_SET_BACKEND}}) {
    rules.push_back(Ioctl(request));
  }
  return rules;
}

// Building the machine and its devices, until Boot.
std::vector<CallRule> MachineIoctls() {
  std::vector<CallRule> rules;
  for (const uint64_t request :
       {uint64_t{KVM_GET_API_VERSION}, uint64_t{KVM_CREATE_VM}, uint64_t{KVM_CHECK_EXTENSION},
        uint64_t{KVM_GET_VCPU_MMAP_SIZE}, kKvmGetSupportedCpuid, uint64_t{KVM_ENABLE_CAP},
        uint64_t{KVM_SET_TSS_ADDR}, uint64_t{KVM_SET_IDENTITY_MAP_ADDR}, uint64_t{KVM_CREATE_VCPU},
        uint64_t{KVM_SET_USER_MEMORY_REGION}, uint64_t{TUNGETIFF}, uint64_t{TUNSETVNETHDRSZ},
        uint64_t{VHOST_SET_OWNER}, uint64_t{VHOST_GET_FEATURES}, kKvmSetCpuid2, kKvmSetMsrs,
        uint64_t{KVM_SET_REGS}, uint64_t{KVM_SET_SREGS}}) {
    rules.push_back(Ioctl(request));
  }
  return rules;
}

std::vector<CallRule> Control() {
  std::vector<CallRule> rules;
  // Threads, never processes.
  rules.push_back(When(SYS_clone, 0, CLONE_VM | CLONE_THREAD | CLONE_SIGHAND,
                       CLONE_VM | CLONE_THREAD | CLONE_SIGHAND));
  // glibc asks for the memory's size (sysinfo) before a large qsort, absl's mutex for its thread's priority (sched_get*); gRPC asks a
  // socket who it is.
  for (const int number :
       {SYS_rt_sigaction, SYS_memfd_create, SYS_ftruncate, SYS_lseek, SYS_pread64, SYS_getsockname,
        SYS_getpeername, SYS_setsockopt, SYS_uname, SYS_sysinfo, SYS_sched_getparam,
        SYS_sched_getscheduler, SYS_io_uring_register}) {
    rules.push_back(Always(number));
  }
  // A new thread tightens its own filter before it does anything else.
  rules.push_back(When(SYS_seccomp, 0, kLow32, SECCOMP_SET_MODE_FILTER));
  // The channel on which a vhost-user back-end asks; there is no socket(): nobody outside can be talked to.
  rules.push_back(When(SYS_socketpair, 0, kLow32, AF_UNIX));
  // Guest memory is sealed against shrinking.
  rules.push_back(When(SYS_fcntl, 1, kLow32, F_ADD_SEALS));
  // Limits can be read, not raised.
  rules.push_back(When(SYS_prlimit64, 2, ~0ULL, 0));
  return rules;
}

}  // namespace

std::vector<CallRule> AllowedCalls(ThreadKind kind) {
  std::vector<CallRule> rules = Basics();
  Append(rules, Descriptors());
  switch (kind) {
    case ThreadKind::kVcpu:
      Append(rules, VcpuIoctls());
      break;
    case ThreadKind::kDevice:
      // No ioctl: a device signals interrupts by irqfd (write); a route that changes is the vCPU's matter.
      Append(rules, DeviceData());
      break;
    case ThreadKind::kUpcall:
      rules.push_back(Always(SYS_recvfrom));
      break;
    case ThreadKind::kNet:
      Append(rules, DeviceData());
      Append(rules, TapIoctls());
      break;
    case ThreadKind::kVhostNet:
      // The kernel moves the packets; what waits in a tap whose link was down is read, and dropped.
      rules.push_back(Always(SYS_readv));
      Append(rules, TapIoctls());
      Append(rules, VhostNetIoctls());
      break;
    case ThreadKind::kMemory:
      Append(rules, DeviceData());
      rules.push_back(Ioctl(KVM_SET_USER_MEMORY_REGION));
      break;
    case ThreadKind::kWindow:
      Append(rules, DeviceData());
      // A file of huge pages is not to be mapped. The mapping itself is among the basics: data, never executable.
      rules.push_back(Always(SYS_fstatfs));
      break;
    case ThreadKind::kWindowVcpu:
      Append(rules, VcpuIoctls());
      rules.push_back(Ioctl(KVM_SET_USER_MEMORY_REGION));
      break;
    case ThreadKind::kControl:
      // Filters add up: the base of all threads allows what any of them may do.
      Append(rules, DeviceData());
      Append(rules, TapIoctls());
      Append(rules, VhostNetIoctls());
      Append(rules, VcpuIoctls());
      Append(rules, MachineIoctls());
      rules.push_back(Always(SYS_fstatfs));
      rules.push_back(Always(SYS_recvfrom));
      Append(rules, Control());
      break;
  }
  return rules;
}

std::span<const int> LethalCalls() {
  static constexpr std::array kLethal = {SYS_execve,
                                         SYS_execveat,
                                         SYS_ptrace,
                                         SYS_process_vm_readv,
                                         SYS_process_vm_writev,
                                         SYS_mount,
                                         SYS_umount2,
                                         SYS_pivot_root,
                                         SYS_chroot,
                                         SYS_setns,
                                         SYS_unshare,
                                         SYS_open_tree,
                                         SYS_move_mount,
                                         SYS_fsopen,
                                         SYS_fsmount,
                                         SYS_mount_setattr,
                                         SYS_init_module,
                                         SYS_finit_module,
                                         SYS_delete_module,
                                         SYS_kexec_load,
                                         SYS_bpf,
                                         SYS_perf_event_open,
                                         SYS_userfaultfd,
                                         SYS_keyctl,
                                         SYS_add_key,
                                         SYS_request_key,
                                         SYS_setuid,
                                         SYS_setresuid,
                                         SYS_setgid,
                                         SYS_setresgid,
                                         SYS_setgroups,
                                         SYS_capset,
                                         SYS_socket,
                                         SYS_connect,
                                         SYS_bind,
                                         SYS_listen,
                                         SYS_accept,
                                         SYS_accept4,
                                         SYS_pidfd_open,
                                         SYS_pidfd_getfd,
                                         SYS_open_by_handle_at,
                                         SYS_reboot,
                                         SYS_swapon,
                                         SYS_iopl,
                                         SYS_ioperm};
  return kLethal;
}

}  // namespace wyvern::jail
