// wyvern-anchor: the process that stands for a container on the host. Tools that are given its pid find the pod's network namespace at
// /proc/<pid>/ns/net, the container's root at /proc/<pid>/root, and its cgroup; killing it kills the container. It does nothing else.
// C only below libstdc++: no allocation, no locale, no threads; a page or two of private memory.
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "anchor/protocol.h"

namespace {

using namespace wyvern::runtime;

// Tells the runtime what failed and with which errno, as "text: 13".
[[noreturn]] void Die(const char* what) {
  const int error = errno;
  char text[200];
  size_t size = strnlen(what, sizeof(text) - 8);
  memcpy(text, what, size);
  text[size++] = ':';
  text[size++] = ' ';
  for (int digit = 100; digit > 0; digit /= 10) {
    text[size++] = static_cast<char>('0' + error / digit % 10);
  }
  [[maybe_unused]] const ssize_t ignored = write(kAnchorLifeFd, text, size);
  _exit(1);
}

void JoinCgroup() {
  if (write(kAnchorCgroupFd, "0", 1) != 1) {
    Die("joining the cgroup");
  }
  close(kAnchorCgroupFd);
}

void JoinNetwork() {
  if (setns(kAnchorNetworkFd, CLONE_NEWNET) != 0) {
    Die("joining the network namespace");
  }
  close(kAnchorNetworkFd);
}

// A mount namespace of its own whose root is the tree: attached somewhere first, since pivot_root wants a mount point. Slave before that, so
// that nothing of ours reaches the host; the rest of the host's mounts goes with the old root.
void EnterRoot() {
  if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    Die("making a mount namespace");
  }
  if (move_mount(kAnchorRootFd, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    Die("attaching the container's root");
  }
  if (fchdir(kAnchorRootFd) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 ||
      umount2(".", MNT_DETACH) != 0 || chdir("/") != 0) {
    Die("entering the container's root");
  }
  close(kAnchorRootFd);
}

void DropPrivileges() {
  for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; ++cap) {
    if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0) {
      Die("dropping a capability");
    }
  }
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || syscall(SYS_capset, &header, none) != 0) {
    Die("dropping capabilities");
  }
}

bool Wanted(const char* letters, char letter) {
  return letters != nullptr && strchr(letters, letter) != nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  const char* letters = argc > 1 ? argv[1] : nullptr;
  setsid();
  if (Wanted(letters, 'c')) {
    JoinCgroup();
  }
  if (Wanted(letters, 'n')) {
    JoinNetwork();
  }
  if (Wanted(letters, 'r')) {
    EnterRoot();
  }
  DropPrivileges();
  if (write(kAnchorLifeFd, "", 1) != 1) {
    return 1;
  }
  // strict mode: read, write, exit only. The life line never carries data: a read that returns is its end.
  prctl(PR_SET_SECCOMP, 1 /* SECCOMP_MODE_STRICT */, 0, 0, 0);
  char byte = 0;
  while (read(kAnchorLifeFd, &byte, 1) < 0) {
  }
  syscall(SYS_exit, 0);  // strict mode knows exit, not exit_group
  __builtin_unreachable();
}
