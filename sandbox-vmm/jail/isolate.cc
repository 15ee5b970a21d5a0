#include "jail/isolate.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace wyvern::jail {

namespace {

Result<> EnterEmptyRoot() {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return SysError("make mounts private");
  }
  // Any directory serves as mount point: the tmpfs hides it in this namespace only.
  if (mount("wyvern", "/proc", "tmpfs", MS_NODEV | MS_NOEXEC | MS_NOSUID, "size=4k,mode=0555") !=
      0) {
    return SysError("mount an empty root");
  }
  if (chdir("/proc") != 0) {
    return SysError("enter the empty root");
  }
  // pivot_root(".", ".") stacks the old root over the new one, where it can be detached (pivot_root(2), NOTES).
  if (syscall(SYS_pivot_root, ".", ".") != 0) {
    return SysError("pivot_root");
  }
  if (umount2(".", MNT_DETACH) != 0) {
    return SysError("detach the old root");
  }
  if (chdir("/") != 0) {
    return SysError("chdir /");
  }
  if (mount(nullptr, "/", nullptr, MS_REMOUNT | MS_RDONLY | MS_NODEV | MS_NOEXEC | MS_NOSUID,
            nullptr) != 0) {
    return SysError("make the empty root read-only");
  }
  return {};
}

Result<> SetLimit(int resource, rlim_t value, const char* name) {
  const rlimit limit{.rlim_cur = value, .rlim_max = value};
  if (setrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) {
    return SysError(std::string("setrlimit ") + name);
  }
  return {};
}

Result<> DropCapabilities() {
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) {
      return SysError("drop a capability from the bounding set");
    }
  }
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) {
    return SysError("clear ambient capabilities");
  }
  return {};
}

Result<> ClearCapabilitySets() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capset, &header, data) != 0) {
    return SysError("capset");
  }
  return {};
}

}  // namespace

Result<> IsolateProcess(const IsolateOptions& options) {
  if (options.uid == 0 || options.gid == 0) {
    return Fail(Code::kInvalidArgument, "the jailed process needs a uid and gid other than 0");
  }
  if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) != 0) {
    return SysError("unshare namespaces (is this running as root?)");
  }
  WV_TRY_VOID(EnterEmptyRoot());
  WV_TRY_VOID(SetLimit(RLIMIT_NOFILE, options.max_open_files, "NOFILE"));
  WV_TRY_VOID(SetLimit(RLIMIT_CORE, 0, "CORE"));
  WV_TRY_VOID(DropCapabilities());
  if (setgroups(0, nullptr) != 0 || setresgid(options.gid, options.gid, options.gid) != 0 ||
      setresuid(options.uid, options.uid, options.uid) != 0) {
    return SysError("change to the sandbox's uid");
  }
  WV_TRY_VOID(ClearCapabilitySets());
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return SysError("PR_SET_NO_NEW_PRIVS");
  }
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
    return SysError("PR_SET_DUMPABLE");
  }
  return {};
}

}  // namespace wyvern::jail
