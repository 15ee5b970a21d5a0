#include "agent/pod_init.h"

#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "agent/crun.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/user_namespace.h"

namespace wyvern::agent {
namespace {

constexpr size_t kMaxFailure = 512;

// A tmpfs that nobody can write to in place of all that the guest has mounted.
Result<> EnterEmptyRoot(const std::string& directory) {
  constexpr unsigned long kFlags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return SysError("making mounts private");
  }
  if (mount("none", directory.c_str(), "tmpfs", kFlags, "size=4k,mode=0555") != 0) {
    return SysError("mount an empty root");
  }
  if (chdir(directory.c_str()) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 ||
      umount2(".", MNT_DETACH) != 0 || chdir("/") != 0) {
    return SysError("entering an empty root");
  }
  return {};
}

Result<> DropPrivileges() {
  for (unsigned long capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0;
       ++capability) {
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) {
      return SysError("dropping a capability");
    }
  }
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  const std::array<__user_cap_data_struct, 2> none = {};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      syscall(SYS_capset, &header, none.data()) != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
    return SysError("dropping capabilities");
  }
  return {};
}

// What is forked off: `failure` is closed without a word when it is in place.
[[noreturn]] void BeFirstProcess(const std::string& directory, FdRef failure) {
  (void)prctl(PR_SET_NAME, "pause", 0, 0, 0);  // what one looks for in a list of processes
  (void)setsid();
  (void)signal(SIGCHLD, SIG_IGN);  // children are then reaped by the kernel
  auto confined = EnterEmptyRoot(directory).and_then([]() -> Result<> { return DropPrivileges(); });
  if (!confined) {
    (void)WriteAll(failure, confined.error().message().substr(0, kMaxFailure));
    _exit(1);
  }
  (void)syscall(SYS_close_range, 0U, ~0U, 0U);
  while (true) {
    (void)pause();
  }
}

// What this process makes from now on belongs to it.
Result<> EnterUserNamespace(const std::string& users, const std::string& groups) {
  IdMap ids;
  WV_TRY(ids.users, ParseIdRanges(users));
  WV_TRY(ids.groups, ParseIdRanges(groups));
  WV_TRY(const UniqueFd made, MakeUserNamespace(ids));
  if (setns(made.get(), CLONE_NEWUSER) != 0) {
    return SysError("entering a user namespace");
  }
  // Its root, if it has one: otherwise who it was, whom it cannot name.
  const auto has_root = [](const std::vector<IdRange>& ranges) {
    return std::ranges::any_of(ranges, [](const IdRange& range) { return range.first == 0; });
  };
  if ((has_root(ids.groups) && setresgid(0, 0, 0) != 0) ||
      (has_root(ids.users) && setresuid(0, 0, 0) != 0)) {
    return SysError("becoming root of a user namespace");
  }
  return unshare(CLONE_NEWIPC) == 0 ? Result<>() : SysError("making an ipc namespace");
}

Result<pid_t> StartFirstProcess(const std::string& directory, const std::string& users,
                                const std::string& groups) {
  WV_TRY(PipePair pipe, MakePipe());
  // With it would end what shares its processes. Refused without CAP_SYS_RESOURCE: not in a guest.
  (void)WriteFile("/proc/self/oom_score_adj", "-1000");
  if (!users.empty()) {
    WV_TRY_VOID(EnterUserNamespace(users, groups));
  }
  if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) {
    return SysError("making a pid namespace");
  }
  const pid_t child = fork();
  if (child < 0) {
    return SysError("fork");
  }
  if (child == 0) {
    BeFirstProcess(directory, pipe.write);
  }
  pipe.write.Reset();
  WV_TRY(const std::string failure, ReadToEnd(pipe.read, kMaxFailure));
  if (!failure.empty()) {
    (void)waitpid(child, nullptr, 0);
    return Fail(Code::kInternal, "the pod's first process: " + failure);
  }
  return child;
}

}  // namespace

int RunPodInit(const std::string& directory, const std::string& users, const std::string& groups) {
  const auto pid = StartFirstProcess(directory, users, groups);
  (void)WriteAll(FdRef(kAnswerFd), pid ? std::to_string(*pid)
                                       : fmt::format("{} {}", static_cast<int>(pid.error().code()),
                                                     pid.error().message()));
  return pid ? 0 : 1;
}

}  // namespace wyvern::agent
