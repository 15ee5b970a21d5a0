#include "fs/file_identity.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace wyvern::fs {

FsResult<Identified> Identify(FdRef directory, const char* name) {
  FS_TRY(const struct statx stat,
         StatAt(directory, name, STATX_TYPE | STATX_INO | STATX_MNT_ID | STATX_BTIME));
  Identified found;
  found.key = KeyOf(stat);
  found.identity = {found.key.device, found.key.inode, uint32_t{stat.stx_mode} & S_IFMT, {}};
  if ((stat.stx_mask & STATX_BTIME) != 0) {
    found.identity.birth = BirthTime{stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec};
  }
  return found;
}

FsResult<UniqueFd> OpenBeneath(FdRef directory, const char* path) {
  open_how how{};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  UniqueFd fd(static_cast<int>(::syscall(SYS_openat2, directory.get(), path, &how, sizeof(how))));
  if (!fd.valid()) {
    return LastErrno();
  }
  return fd;
}

}  // namespace wyvern::fs
