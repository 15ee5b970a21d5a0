// LOOKUP, GETATTR, STATX, SETATTR, READLINK, ACCESS.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "fs/credentials.h"
#include "fs/file_server.h"

namespace wyvern::fs {

FsResult<size_t> FileServer::LookUpName(FuseCall& call) {
  FS_TRY(const char* name, call.TakeName());
  FS_TRY(const InodeRef parent, inodes_.Find(call.header().nodeid));
  if (!parent->IsDirectory()) {
    return FsError(ENOTDIR);
  }
  FS_TRY(const PathFd directory, OpenNode(parent));
  const auto entry = FindEntry(parent, FdRef(directory->get()), name);
  if (entry) {
    return ReplyEntry(call, *entry);
  }
  const auto cache = parent->share->policy.cache;
  if (entry.error().value == ENOENT && cache.count() > 0) {
    // Node 0: the guest may believe for so long that the name does not exist.
    fuse_entry_out out{};
    const Validity absent(cache);
    out.entry_valid = absent.seconds;
    out.entry_valid_nsec = absent.nanoseconds;
    return call.Reply(out);
  }
  return tl::unexpected(entry.error());
}

FsResult<size_t> FileServer::GetAttr(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_getattr_in>());
  FS_TRY(const InodeRef inode, inodes_.Find(call.header().nodeid));
  if ((args.getattr_flags & FUSE_GETATTR_FH) != 0) {
    if (const HandleRef handle = handles_.FindFor(args.fh, inode->node); handle != nullptr) {
      return ReplyAttr(call, inode, handle->fd);
    }
  }
  FS_TRY(const PathFd fd, OpenNode(inode));
  return ReplyAttr(call, inode, FdRef(fd->get()));
}

namespace {

StatxTime ToStatxTime(const struct statx_timestamp& time) {
  return {time.tv_sec, time.tv_nsec, 0};
}

}  // namespace

FsResult<size_t> FileServer::StatX(FuseCall& call) {
  FS_TRY(const auto args, call.Take<StatxIn>());
  FS_TRY(const InodeRef inode, inodes_.Find(call.header().nodeid));
  HandleRef handle;
  if ((args.getattr_flags & FUSE_GETATTR_FH) != 0) {
    handle = handles_.FindFor(args.fh, inode->node);
  }
  PathFd path;
  if (handle == nullptr) {
    FS_TRY(path, OpenNode(inode));
  }
  const int fd = handle != nullptr ? handle->fd.get() : path->get();
  // Of the flags only how hard to synchronise is the guest's to choose; the mask does no harm, but
  // more than this has no place in the reply.
  const unsigned mask = args.sx_mask & (STATX_BASIC_STATS | STATX_BTIME);
  const int flags = static_cast<int>(args.sx_flags & AT_STATX_SYNC_TYPE);

  struct statx host {};

  if (::statx(fd, "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | flags, mask, &host) !=
      0) {
    return LastErrno();
  }
  StatxOut out{};
  const Validity validity = AttributesOf(*inode);
  out.attr_valid = validity.seconds;
  out.attr_valid_nsec = validity.nanoseconds;
  out.flags = AttrFlags(*inode, host.stx_size);
  StatxAttributes& to = out.stat;
  to.mask = host.stx_mask & (STATX_BASIC_STATS | STATX_BTIME);
  to.blksize = host.stx_blksize;
  to.attributes = host.stx_attributes;
  to.attributes_mask = host.stx_attributes_mask;
  to.nlink = host.stx_nlink;
  to.uid = host.stx_uid;
  to.gid = host.stx_gid;
  to.mode = host.stx_mode;
  to.ino = host.stx_ino;
  to.size = host.stx_size;
  to.blocks = host.stx_blocks;
  to.atime = ToStatxTime(host.stx_atime);
  to.btime = ToStatxTime(host.stx_btime);
  to.ctime = ToStatxTime(host.stx_ctime);
  to.mtime = ToStatxTime(host.stx_mtime);
  to.rdev_major = host.stx_rdev_major;
  to.rdev_minor = host.stx_rdev_minor;
  to.dev_major = host.stx_dev_major;
  to.dev_minor = host.stx_dev_minor;
  return call.Reply(out);
}

FsResult<> FileServer::SetMode(const PathFd& fd, const fuse_setattr_in& args) {
  // fchmod refuses O_PATH descriptors. The guest kernel has already decided about set-group-ID.
  if (::chmod(DescriptorPath(fd->get()).c_str(), args.mode & 07777U) != 0) {
    return LastErrno();
  }
  return {};
}

FsResult<> FileServer::SetSize(const InodeRef& inode, const PathFd& fd,
                               const fuse_setattr_in& args) {
  if (!inode->IsRegular()) {
    return FsError(inode->IsDirectory() ? EISDIR : EINVAL);
  }
  if (args.size > static_cast<uint64_t>(INT64_MAX)) {
    return FsError(EINVAL);
  }
  const ScopedKillPrivileges kill((args.valid & FATTR_KILL_SUIDGID) != 0);
  if (!kill.ok()) {
    return FsError(EPERM);
  }
  const auto size = static_cast<off_t>(args.size);
  if ((args.valid & FATTR_FH) != 0) {
    const HandleRef handle = handles_.FindFor(args.fh, inode->node);
    if (handle != nullptr && ::ftruncate(handle->fd.get(), size) == 0) {
      return {};
    }
    // A handle that is not open for writing: by the inode, as the guest kernel has already allowed
    // it.
    if (handle != nullptr && errno != EINVAL) {
      return LastErrno();
    }
  }
  if (::truncate(DescriptorPath(fd->get()).c_str(), size) != 0) {
    return LastErrno();
  }
  return {};
}

FsResult<> FileServer::SetTimes(const PathFd& fd, const fuse_setattr_in& args) {
  struct timespec times[2];
  times[0] = {.tv_sec = static_cast<time_t>(args.atime), .tv_nsec = args.atimensec};
  times[1] = {.tv_sec = static_cast<time_t>(args.mtime), .tv_nsec = args.mtimensec};
  if ((args.valid & FATTR_ATIME) == 0) {
    times[0].tv_nsec = UTIME_OMIT;
  } else if ((args.valid & FATTR_ATIME_NOW) != 0) {
    times[0].tv_nsec = UTIME_NOW;
  }
  if ((args.valid & FATTR_MTIME) == 0) {
    times[1].tv_nsec = UTIME_OMIT;
  } else if ((args.valid & FATTR_MTIME_NOW) != 0) {
    times[1].tv_nsec = UTIME_NOW;
  }
  if (::utimensat(fd->get(), "", times, AT_EMPTY_PATH) != 0) {
    return LastErrno();
  }
  return {};
}

FsResult<size_t> FileServer::SetAttr(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_setattr_in>());
  FS_TRY(const InodeRef inode, FindWritable(call.header().nodeid));
  FS_TRY(const PathFd fd, OpenNode(inode));
  if ((args.valid & FATTR_MODE) != 0) {
    FS_TRY_VOID(SetMode(fd, args));
  }
  if ((args.valid & (FATTR_UID | FATTR_GID)) != 0) {
    const uid_t uid = (args.valid & FATTR_UID) != 0 ? args.uid : static_cast<uid_t>(-1);
    const gid_t gid = (args.valid & FATTR_GID) != 0 ? args.gid : static_cast<gid_t>(-1);
    if (::fchownat(fd->get(), "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) {
      return LastErrno();
    }
  }
  if ((args.valid & FATTR_SIZE) != 0) {
    FS_TRY_VOID(SetSize(inode, fd, args));
  }
  if ((args.valid & (FATTR_ATIME | FATTR_MTIME)) != 0) {
    FS_TRY_VOID(SetTimes(fd, args));
  }
  return ReplyAttr(call, inode, FdRef(fd->get()));
}

FsResult<size_t> FileServer::ReadLink(FuseCall& call) {
  FS_TRY(const InodeRef inode, inodes_.Find(call.header().nodeid));
  if (inode->file_type != S_IFLNK) {
    return FsError(EINVAL);
  }
  FS_TRY(const PathFd fd, OpenNode(inode));
  char target[PATH_MAX];
  const ssize_t length = ::readlinkat(fd->get(), "", target, sizeof(target));
  if (length < 0) {
    return LastErrno();
  }
  return call.ReplyBytes(std::as_bytes(std::span(target).first(static_cast<size_t>(length))));
}

FsResult<size_t> FileServer::Access(FuseCall& call) {
  // Sent only by clients without default_permissions; decided by the mode bits, as that option
  // does.
  FS_TRY(const auto args, call.Take<fuse_access_in>());
  FS_TRY(const InodeRef inode, inodes_.Find(call.header().nodeid));
  FS_TRY(const PathFd fd, OpenNode(inode));
  FS_TRY(const struct statx stat, StatAt(FdRef(fd->get()), ""));
  const uint32_t mask = args.mask & (R_OK | W_OK | X_OK);
  if ((mask & W_OK) != 0 && inode->share->policy.read_only) {
    return FsError(EROFS);
  }
  const fuse_in_header& caller = call.header();
  uint32_t granted = stat.stx_mode & 7U;
  if (caller.uid == 0) {
    const bool executable = inode->IsDirectory() || (stat.stx_mode & 0111U) != 0;
    granted = R_OK | W_OK | (executable ? uint32_t{X_OK} : 0);
  } else if (caller.uid == stat.stx_uid) {
    granted = (stat.stx_mode >> 6U) & 7U;
  } else if (caller.gid == stat.stx_gid) {
    granted = (stat.stx_mode >> 3U) & 7U;
  }
  return (mask & ~granted) == 0 ? FsResult<size_t>(0) : FsError(EACCES);
}

}  // namespace wyvern::fs
