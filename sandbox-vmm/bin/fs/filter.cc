#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <array>
#include <initializer_list>
#include <memory>
#include <string>

#include "fs/confine.h"

namespace wyvern::fs_process {

namespace {

struct ContextDeleter {
  void operator()(void* context) const { seccomp_release(context); }
};

using Context = std::unique_ptr<void, ContextDeleter>;

// Numbers that an architecture lacks are negative, which libseccomp passes over.
constexpr std::array kAllowed = {
    // files and names
    SCMP_SYS(openat), SCMP_SYS(open), SCMP_SYS(close), SCMP_SYS(statx), SCMP_SYS(newfstatat),
    SCMP_SYS(fstat), SCMP_SYS(fstatfs), SCMP_SYS(readlinkat), SCMP_SYS(symlinkat),
    SCMP_SYS(mknodat), SCMP_SYS(mkdirat), SCMP_SYS(unlinkat), SCMP_SYS(renameat2), SCMP_SYS(linkat),
    SCMP_SYS(getdents64), SCMP_SYS(lseek), SCMP_SYS(chmod), SCMP_SYS(fchmodat), SCMP_SYS(fchownat),
    SCMP_SYS(truncate), SCMP_SYS(ftruncate), SCMP_SYS(utimensat), SCMP_SYS(fallocate),
    SCMP_SYS(copy_file_range), SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(syncfs),
    SCMP_SYS(setxattr), SCMP_SYS(getxattr), SCMP_SYS(listxattr), SCMP_SYS(removexattr),
    // a state that is loaded: names beneath a directory, no link followed. What else it could open,
    // openat can, too.
    SCMP_SYS(openat2),
    // data
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
    SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(preadv2), SCMP_SYS(pwritev2),
    // the guest user of a request, in one thread
    SCMP_SYS(setfsuid), SCMP_SYS(setfsgid), SCMP_SYS(setgroups), SCMP_SYS(capget), SCMP_SYS(capset),
    SCMP_SYS(geteuid), SCMP_SYS(getegid),
    // events and the two sockets
    SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2), SCMP_SYS(epoll_ctl),
    SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(shutdown),
    // memory; executable pages are excluded below
    SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk),
    // threads, time, the end
    SCMP_SYS(futex), SCMP_SYS(sched_yield), SCMP_SYS(nanosleep), SCMP_SYS(clock_nanosleep),
    SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(getrandom), SCMP_SYS(gettid),
    SCMP_SYS(getpid), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall),
    // set_robust_list: a pool thread may still be starting when the filter reaches it
    SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(membarrier), SCMP_SYS(exit),
    SCMP_SYS(exit_group), SCMP_SYS(alarm), SCMP_SYS(setitimer)};

// Only an attacker calls these: no handler, no message, the end.
constexpr std::array kLethal = {
    SCMP_SYS(execve),  SCMP_SYS(execveat),          SCMP_SYS(ptrace), SCMP_SYS(mount),
    SCMP_SYS(umount2), SCMP_SYS(open_by_handle_at), SCMP_SYS(setns),  SCMP_SYS(unshare),
    SCMP_SYS(bpf),     SCMP_SYS(io_uring_setup),    SCMP_SYS(socket), SCMP_SYS(process_vm_writev)};

Result<> Add(const Context& context, uint32_t action, int number,
             std::span<const scmp_arg_cmp> conditions) {
  const int error = seccomp_rule_add_array(
      context.get(), action, number, static_cast<unsigned>(conditions.size()), conditions.data());
  if (error != 0 && error != -EDOM && number >= 0) {
    return SysErrorFrom(-error, "seccomp rule for call " + std::to_string(number));
  }
  return {};
}

// Calls of `number` whose argument `index` is one of `values`.
Result<> AllowOnly(const Context& context, int number, unsigned index,
                   std::initializer_list<int> values) {
  for (const int value : values) {
    const scmp_arg_cmp only[] = {
        {.arg = index, .op = SCMP_CMP_EQ, .datum_a = static_cast<uint64_t>(value), .datum_b = 0}};
    WV_TRY_VOID(Add(context, SCMP_ACT_ALLOW, number, only));
  }
  return {};
}

// Locks of the host: of whole open files, and of ranges by open file descriptions. None of them is
// waited for in the kernel (F_OFD_SETLKW, classic locks): a timer brings who waits back.
Result<> AllowLocks(const Context& context, const fs::SessionFeatures& features) {
  if (features.posix_locks) {
    WV_TRY_VOID(AllowOnly(context, SCMP_SYS(fcntl), 1, {F_OFD_GETLK, F_OFD_SETLK}));
  }
  if (features.flock_locks) {
    WV_TRY_VOID(Add(context, SCMP_ACT_ALLOW, SCMP_SYS(flock), {}));
  }
  if (features.posix_locks || features.flock_locks) {
    WV_TRY_VOID(Add(context, SCMP_ACT_ALLOW, SCMP_SYS(timerfd_settime), {}));
  }
  return {};
}

}  // namespace

std::span<const int> AllowedCalls() {
  return kAllowed;
}

Result<> InstallFilter(const fs::SessionFeatures& features) {
  const Context context(seccomp_init(SCMP_ACT_TRAP));
  if (!context) {
    return Fail(Code::kResourceExhausted, "seccomp_init");
  }
  seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_NNP, 0);
  seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_TSYNC, 1);
  seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  for (const int number : kAllowed) {
    WV_TRY_VOID(Add(context, SCMP_ACT_ALLOW, number, {}));
  }
  for (const int number : kLethal) {
    WV_TRY_VOID(Add(context, SCMP_ACT_KILL_PROCESS, number, {}));
  }
  const scmp_arg_cmp not_executable[] = {
      {.arg = 2, .op = SCMP_CMP_MASKED_EQ, .datum_a = PROT_EXEC, .datum_b = 0}};
  WV_TRY_VOID(Add(context, SCMP_ACT_ALLOW, SCMP_SYS(mmap), not_executable));
  WV_TRY_VOID(Add(context, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), not_executable));
  // Not F_SETFL: eventfds are shared with the VMM, flags and all.
  WV_TRY_VOID(
      AllowOnly(context, SCMP_SYS(fcntl), 1, {F_DUPFD_CLOEXEC, F_GETFL, F_GET_SEALS, F_ADD_SEALS}));
  WV_TRY_VOID(AllowLocks(context, features));
  // What a device's state is passed in, sealed.
  WV_TRY_VOID(AllowOnly(context, SCMP_SYS(memfd_create), 1, {MFD_CLOEXEC | MFD_ALLOW_SEALING}));
  // The name of a thread, in the report of a violation; names of mappings (newer allocators).
  WV_TRY_VOID(AllowOnly(context, SCMP_SYS(prctl), 0, {PR_GET_NAME, PR_SET_NAME, PR_SET_VMA}));
  const int error = seccomp_load(context.get());
  if (error != 0) {
    return SysErrorFrom(-error, "load the seccomp filter");
  }
  return {};
}

}  // namespace wyvern::fs_process
