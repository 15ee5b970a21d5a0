// fs/credentials.h — acting for a guest user in one thread, for as long as one request creates
// something.
// Shape:   the file system identity (fsuid, fsgid) and the groups of the calling thread change, and
//          come back with the destructor. A user other than root keeps CAP_DAC_OVERRIDE only (the
//          guest kernel has already checked access), in particular not CAP_FSETID: the host drops
//          set-group-ID where the user could not set it (CVE-2022-0358).
// Threads: acts on the calling thread alone: raw system calls, since glibc's setgroups changes
//          every thread.
// Trust:   uid, gid and group are the guest's; ids in the guest are ids on the host.
#pragma once

#include <sys/types.h>

#include "fs/fuse_call.h"

namespace wyvern::fs {

class ScopedCredentials {
 public:
  // EPERM and the like when the process lacks the capabilities; the thread is then as before.
  static FsResult<ScopedCredentials> Assume(uid_t uid, gid_t gid, FuseCall::Groups groups);
  ScopedCredentials(ScopedCredentials&& other) noexcept;
  ScopedCredentials& operator=(ScopedCredentials&&) = delete;
  ScopedCredentials(const ScopedCredentials&) = delete;
  ScopedCredentials& operator=(const ScopedCredentials&) = delete;
  ~ScopedCredentials();

 private:
  ScopedCredentials() = default;
  bool user_ = false;
  bool group_ = false;
  bool groups_ = false;
};

// The calling thread without CAP_FSETID: a write or truncation then clears set-user-ID and
// set-group-ID as for any user.
class ScopedKillPrivileges {
 public:
  explicit ScopedKillPrivileges(bool active);
  ~ScopedKillPrivileges();
  ScopedKillPrivileges(const ScopedKillPrivileges&) = delete;
  ScopedKillPrivileges& operator=(const ScopedKillPrivileges&) = delete;

  // False: the privilege could not be given up, so the operation must not go on.
  bool ok() const { return ok_; }

 private:
  bool active_;
  bool ok_ = true;
};

}  // namespace wyvern::fs
