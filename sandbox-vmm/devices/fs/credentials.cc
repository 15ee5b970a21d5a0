#include "fs/credentials.h"

#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/check.h"

namespace wyvern::fs {

namespace {

struct Capabilities {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};

  bool Get() { return ::syscall(SYS_capget, &header, data) == 0; }

  bool Set() { return ::syscall(SYS_capset, &header, data) == 0; }
};

// Adds or removes one capability of the calling thread's effective set; true if that is so
// afterwards.
bool SetEffective(unsigned capability, bool on) {
  Capabilities caps;
  if (!caps.Get()) {
    return false;
  }
  auto& word = caps.data[CAP_TO_INDEX(capability)];
  const uint32_t bit = CAP_TO_MASK(capability);
  if (((word.effective & bit) != 0) == on) {
    return true;
  }
  if (on && (word.permitted & bit) == 0) {
    return false;
  }
  word.effective = on ? word.effective | bit : word.effective & ~bit;
  return caps.Set();
}

// setfsuid(2) reports nothing: a second call with an invalid id tells what is in force.
bool SwitchUser(uid_t uid) {
  ::syscall(SYS_setfsuid, uid);
  return static_cast<uid_t>(::syscall(SYS_setfsuid, static_cast<uid_t>(-1))) == uid;
}

bool SwitchGroup(gid_t gid) {
  ::syscall(SYS_setfsgid, gid);
  return static_cast<gid_t>(::syscall(SYS_setfsgid, static_cast<gid_t>(-1))) == gid;
}

}  // namespace

FsResult<ScopedCredentials> ScopedCredentials::Assume(uid_t uid, gid_t gid,
                                                      FuseCall::Groups groups) {
  if (uid == static_cast<uid_t>(-1) || gid == static_cast<gid_t>(-1)) {
    return FsError(EINVAL);
  }
  ScopedCredentials scope;
  if (groups.present && groups.group != gid) {
    if (::syscall(SYS_setgroups, 1, &groups.group) != 0) {
      return LastErrno();
    }
    scope.groups_ = true;
  }
  if (gid != ::getegid()) {
    scope.group_ = true;
    if (!SwitchGroup(gid)) {
      return FsError(EPERM);
    }
  }
  if (uid != ::geteuid()) {
    scope.user_ = true;
    // Leaving fsuid 0 takes the file capabilities out of the effective set; only access comes back.
    if (!SwitchUser(uid) || !SetEffective(CAP_DAC_OVERRIDE, true)) {
      return FsError(EPERM);
    }
  }
  return scope;
}

ScopedCredentials::ScopedCredentials(ScopedCredentials&& other) noexcept
    : user_(std::exchange(other.user_, false)),
      group_(std::exchange(other.group_, false)),
      groups_(std::exchange(other.groups_, false)) {}

ScopedCredentials::~ScopedCredentials() {
  // Going on with a guest user's identity would serve others in its name: there is no way back but
  // the end.
  if (user_) {
    WV_CHECK(SwitchUser(::geteuid()));
  }
  if (group_) {
    WV_CHECK(SwitchGroup(::getegid()));
  }
  if (groups_) {
    WV_CHECK(::syscall(SYS_setgroups, 0, nullptr) == 0);
  }
}

ScopedKillPrivileges::ScopedKillPrivileges(bool active) : active_(active) {
  if (active_) {
    ok_ = SetEffective(CAP_FSETID, false);
  }
}

ScopedKillPrivileges::~ScopedKillPrivileges() {
  if (active_ && ok_ && ::geteuid() == 0) {
    // Raising it again fails only where it was never permitted.
    SetEffective(CAP_FSETID, true);
  }
}

}  // namespace wyvern::fs
