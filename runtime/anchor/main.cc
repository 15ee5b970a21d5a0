// wyvern-anchor: the process that stands for a container on the host. Tools that are given its pid find the pod's network namespace at
// /proc/<pid>/ns/net, the container's root at /proc/<pid>/root, and its cgroup; killing it kills the container. It does nothing else.
// No C library: one is started per container, and its start-up code alone would be most of the memory.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "anchor/protocol.h"
#include "raw.h"

namespace {

using namespace wyvern::runtime;

constexpr long kRecursivePrivate = 0x4000 | 0x40000;  // MS_REC | MS_PRIVATE (mount(2))
constexpr long kDetach = 2;                           // MNT_DETACH (umount(2))

long Call(long number, const void* a, long b = 0, long c = 0, long d = 0, long e = 0) {
  return RawCall(number, reinterpret_cast<long>(a), b, c, d, e);
}

long Address(const void* pointer) {
  return reinterpret_cast<long>(pointer);
}

// Tells the runtime what failed and with which errno, as "text: 013".
[[noreturn]] void Die(const char* what, long error) {
  char text[100];
  long size = 0;
  for (; what[size] != 0 && size < 90; ++size) {
    text[size] = what[size];
    asm volatile("" ::: "memory");  // a loop, not a call of memcpy
  }
  text[size++] = ':';
  text[size++] = ' ';
  for (long digit = 100; digit > 0; digit /= 10) {
    text[size++] = static_cast<char>('0' + -error / digit % 10);
  }
  RawCall(SYS_write, kAnchorLifeFd, Address(text), size);
  RawCall(SYS_exit_group, 1);
  __builtin_unreachable();
}

void Check(long result, const char* what) {
  if (result < 0) {
    Die(what, result);
  }
}

void JoinCgroup() {
  Check(RawCall(SYS_write, kAnchorCgroupFd, Address("0"), 1), "joining the cgroup");
  RawCall(SYS_close, kAnchorCgroupFd);
}

void JoinNetwork() {
  Check(RawCall(SYS_setns, kAnchorNetworkFd, CLONE_NEWNET), "joining the network namespace");
  RawCall(SYS_close, kAnchorNetworkFd);
}

// A mount namespace of its own whose root is the tree: attached somewhere first, since pivot_root wants a mount point. Private before that,
// so that nothing of ours reaches the host; the host's mounts go with the old root.
void EnterRoot() {
  Check(RawCall(SYS_unshare, CLONE_NEWNS), "making a mount namespace");
  Check(Call(SYS_mount, "none", Address("/"), 0, kRecursivePrivate), "making mounts private");
  Check(RawCall(SYS_move_mount, kAnchorRootFd, Address(""), AT_FDCWD, Address("/"),
                MOVE_MOUNT_F_EMPTY_PATH),
        "attaching the container's root");
  Check(RawCall(SYS_fchdir, kAnchorRootFd), "entering the container's root");
  Check(Call(SYS_pivot_root, ".", Address(".")), "changing the root");
  Check(Call(SYS_umount2, ".", kDetach), "leaving the host's root");
  Check(Call(SYS_chdir, "/"), "entering the container's root");
  RawCall(SYS_close, kAnchorRootFd);
}

void DropPrivileges() {
  for (long capability = 0; RawCall(SYS_prctl, PR_CAPBSET_READ, capability) >= 0; ++capability) {
    Check(RawCall(SYS_prctl, PR_CAPBSET_DROP, capability), "dropping a capability");
  }
  const __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[2] = {};
  Check(RawCall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1), "forbidding new privileges");
  Check(Call(SYS_capset, &header, Address(none)), "dropping capabilities");
}

bool Wanted(const char* letters, char letter) {
  for (; letters != nullptr && *letters != 0; ++letters) {
    if (*letters == letter) {
      return true;
    }
  }
  return false;
}

}  // namespace

// `stack`: argc, then argv, as the kernel leaves them.
extern "C" [[noreturn]] void AnchorStart(const char* const* stack) {
  const char* letters = Address(stack[0]) > 1 ? stack[2] : nullptr;
  RawCall(SYS_setsid);
  // Run from a descriptor, it would be called by that one's number.
  RawCall(SYS_prctl, PR_SET_NAME, Address("wyvern-anchor"));
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
  // Strict mode: read, write, exit only. The life line never carries data: a read that returns is its end. Confined before it answers:
  // who has the answer has a confined anchor.
  Check(RawCall(SYS_prctl, PR_SET_SECCOMP, 1 /* SECCOMP_MODE_STRICT */), "confining itself");
  const char ready = 0;
  Check(RawCall(SYS_write, kAnchorLifeFd, Address(&ready), 1), "answering");
  char byte = 0;
  while (RawCall(SYS_read, kAnchorLifeFd, Address(&byte), 1) < 0) {
  }
  RawCall(SYS_exit, 0);  // strict mode knows exit, not exit_group
  __builtin_unreachable();
}
