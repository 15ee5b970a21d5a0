#include "fs/confine.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace wyvern::fs_process {

namespace {

constexpr std::array<int, 8> kCapabilities = {CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FOWNER,
                                              CAP_FSETID, CAP_SETGID,       CAP_SETUID,
                                              CAP_MKNOD,  CAP_SETFCAP};

Result<rlim_t> RaiseOpenFiles(rlim_t wanted) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return SysError("getrlimit(NOFILE)");
  }
  const rlimit raised{wanted, wanted};
  if (setrlimit(RLIMIT_NOFILE, &raised) == 0) {
    return wanted;
  }
  // fs.nr_open or a missing capability: what the hard limit gives.
  const rlimit hard{std::min(wanted, limit.rlim_max), std::min(wanted, limit.rlim_max)};
  if (setrlimit(RLIMIT_NOFILE, &hard) != 0) {
    return SysError("setrlimit(NOFILE)");
  }
  return hard.rlim_cur;
}

// A mount of /proc/<our pid>/fd alone: ".." ends at its root.
Result<UniqueFd> CloneDescriptorDirectory() {
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    return SysError("mount a private /proc");
  }
  UniqueFd tree(static_cast<int>(
      syscall(SYS_open_tree, AT_FDCWD, "/proc/self/fd", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
  if (!tree.valid()) {
    return SysError("open_tree /proc/self/fd");
  }
  return tree;
}

Result<> EnterRoot(const ConfineOptions& options) {
  // Any directory serves as mount point: what is mounted hides it in this namespace only.
  if (options.shared_tree.valid()) {
    if (syscall(SYS_move_mount, options.shared_tree.get(), "", AT_FDCWD, "/proc",
                MOVE_MOUNT_F_EMPTY_PATH) != 0) {
      return SysError("move_mount of the shared directory");
    }
  } else if (mount("wyvern", "/proc", "tmpfs", MS_NODEV | MS_NOEXEC | MS_NOSUID,
                   "size=1m,nr_inodes=8k,mode=0755") != 0) {
    return SysError("mount an empty root");
  }
  if (chdir("/proc") != 0) {
    return SysError("enter the new root");
  }
  // pivot_root(".", ".") stacks the old root over the new one, where it can be detached
  // (pivot_root(2), NOTES).
  if (syscall(SYS_pivot_root, ".", ".") != 0) {
    return SysError("pivot_root");
  }
  if (umount2(".", MNT_DETACH) != 0) {
    return SysError("detach the old root");
  }
  return {};
}

Result<> LimitCapabilities() {
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    if (std::ranges::find(kCapabilities, capability) == kCapabilities.end() &&
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) {
      return SysError("drop a capability from the bounding set");
    }
  }
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) {
    return SysError("clear ambient capabilities");
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  for (const int capability : kCapabilities) {
    auto& word = data[CAP_TO_INDEX(static_cast<unsigned>(capability))];
    word.permitted |= CAP_TO_MASK(static_cast<unsigned>(capability));
    word.effective |= CAP_TO_MASK(static_cast<unsigned>(capability));
  }
  if (syscall(SYS_capset, &header, data) != 0) {
    return SysError("capset");
  }
  return {};
}

}  // namespace

std::span<const int> KeptCapabilities() {
  return kCapabilities;
}

Result<UniqueFd> CloneSharedTree(const std::string& path, bool read_only) {
  UniqueFd tree(static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, path.c_str(),
                                         OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)));
  if (!tree.valid()) {
    return SysError("open_tree " + path);
  }
  mount_attr attributes{};
  attributes.propagation = MS_PRIVATE;
  attributes.attr_set = MOUNT_ATTR_NODEV | (read_only ? MOUNT_ATTR_RDONLY : 0);
  if (syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
              sizeof(attributes)) != 0) {
    return SysError("mount_setattr " + path);
  }
  return tree;
}

Result<rlim_t> Confine(const ConfineOptions& options) {
  WV_TRY(const rlim_t open_files, RaiseOpenFiles(options.open_files));
  if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) != 0) {
    return SysError("unshare namespaces (is this running as root?)");
  }
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return SysError("make mounts private");
  }
  WV_TRY(const UniqueFd descriptors, CloneDescriptorDirectory());
  WV_TRY_VOID(EnterRoot(options));
  if (fchdir(descriptors.get()) != 0) {
    return SysError("enter the directory of descriptors");
  }
  umask(0);
  const rlimit no_core{0, 0};
  if (setrlimit(RLIMIT_CORE, &no_core) != 0) {
    return SysError("setrlimit(CORE)");
  }
  if (syscall(SYS_setgroups, 0, nullptr) != 0) {
    return SysError("setgroups");
  }
  WV_TRY_VOID(LimitCapabilities());
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return SysError("PR_SET_NO_NEW_PRIVS");
  }
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
    return SysError("PR_SET_DUMPABLE");
  }
  return open_files;
}

}  // namespace wyvern::fs_process
