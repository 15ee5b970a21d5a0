// SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, RENAME2, LINK.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "fs/credentials.h"
#include "fs/file_server.h"

namespace wyvern::fs {

namespace {

dev_t DecodeDevice(uint32_t device) {
  return makedev((device & 0xfff00U) >> 8U, (device & 0xffU) | ((device >> 12U) & 0xfff00U));
}

}  // namespace

// The mode of what is made in a directory. With POSIX ACLs (FUSE_DONT_MASK) the guest's kernel leaves
// its umask to us: a default ACL of the directory takes its place, and the host applies that itself.
uint32_t FileServer::CreationMode(const PathFd& directory, uint32_t mode, uint32_t umask) const {
  if (!posix_acl_.load(std::memory_order_relaxed)) {
    return mode;
  }
  const std::string path = DescriptorPath(directory->get());
  const bool has_default = ::getxattr(path.c_str(), "system.posix_acl_default", nullptr, 0) > 0;
  return has_default ? mode : mode & ~(umask & 0777U);
}

FsResult<size_t> FileServer::SymLink(FuseCall& call) {
  FS_TRY(const char* name, call.TakeName());
  FS_TRY(const char* target, call.TakeString(PATH_MAX - 1));
  FS_TRY(const InodeRef parent, FindWritable(call.header().nodeid));
  FS_TRY(const PathFd directory, OpenNode(parent));
  FS_TRY(const auto groups, call.FindGroups());
  {
    FS_TRY(const auto as_user,
           ScopedCredentials::Assume(call.header().uid, call.header().gid, groups));
    if (::symlinkat(target, directory->get(), name) != 0) {
      return LastErrno();
    }
  }
  FS_TRY(const Entry entry, FindEntry(parent, FdRef(directory->get()), name));
  return ReplyEntry(call, entry);
}

FsResult<size_t> FileServer::MkNod(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_mknod_in>());
  FS_TRY(const char* name, call.TakeName());
  FS_TRY(const InodeRef parent, FindWritable(call.header().nodeid));
  FS_TRY(const PathFd directory, OpenNode(parent));
  FS_TRY(const auto groups, call.FindGroups());
  const uint32_t mode = CreationMode(directory, args.mode, args.umask);
  {
    FS_TRY(const auto as_user,
           ScopedCredentials::Assume(call.header().uid, call.header().gid, groups));
    // A device node is a name on the host, too; no server of ours ever opens it, and exports are
    // mounted nodev.
    if (::mknodat(directory->get(), name, mode, DecodeDevice(args.rdev)) != 0) {
      return LastErrno();
    }
  }
  FS_TRY(const Entry entry, FindEntry(parent, FdRef(directory->get()), name));
  return ReplyEntry(call, entry);
}

FsResult<size_t> FileServer::MkDir(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_mkdir_in>());
  FS_TRY(const char* name, call.TakeName());
  FS_TRY(const InodeRef parent, FindWritable(call.header().nodeid));
  FS_TRY(const PathFd directory, OpenNode(parent));
  FS_TRY(const auto groups, call.FindGroups());
  const uint32_t mode = CreationMode(directory, args.mode, args.umask) & 07777U;
  {
    FS_TRY(const auto as_user,
           ScopedCredentials::Assume(call.header().uid, call.header().gid, groups));
    if (::mkdirat(directory->get(), name, mode) != 0) {
      return LastErrno();
    }
  }
  FS_TRY(const Entry entry, FindEntry(parent, FdRef(directory->get()), name));
  return ReplyEntry(call, entry);
}

FsResult<size_t> FileServer::Remove(FuseCall& call, int flags) {
  FS_TRY(const char* name, call.TakeName());
  FS_TRY(const InodeRef parent, FindWritable(call.header().nodeid));
  FS_TRY(const PathFd directory, OpenNode(parent));
  FS_TRY(const struct statx stat, StatAt(FdRef(directory->get()), name));
  // The guest may go on using the inode: it needs a descriptor, as its name goes.
  const InodeRef inode = inodes_.FindKey(KeyOf(stat));
  if (inode != nullptr) {
    // Stale means that the guest's inode is another one than the name's now: nothing to hold.
    const auto held = inodes_.LoseName(inode, parent->node, name);
    if (!held && held.error().value == ENFILE) {
      return tl::unexpected(held.error());
    }
  }
  if (::unlinkat(directory->get(), name, flags) != 0) {
    const auto error = LastErrno();
    if (inode != nullptr) {
      inodes_.SetName(inode, parent->node, name);
    }
    return error;
  }
  return 0;
}

FsResult<size_t> FileServer::Unlink(FuseCall& call) {
  return Remove(call, 0);
}

FsResult<size_t> FileServer::RmDir(FuseCall& call) {
  return Remove(call, AT_REMOVEDIR);
}

FsResult<size_t> FileServer::Rename(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_rename_in>());
  return RenameTo(call, args.newdir, 0);
}

FsResult<size_t> FileServer::Rename2(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_rename2_in>());
  if ((args.flags & ~uint32_t{RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT}) != 0) {
    return FsError(EINVAL);
  }
  return RenameTo(call, args.newdir, args.flags);
}

FsResult<size_t> FileServer::RenameTo(FuseCall& call, uint64_t new_parent, uint32_t flags) {
  FS_TRY(const char* from_name, call.TakeName());
  FS_TRY(const char* to_name, call.TakeName());
  FS_TRY(const InodeRef from, FindWritable(call.header().nodeid));
  FS_TRY(const InodeRef to, FindWritable(new_parent));
  if (from->share != to->share) {
    return FsError(EXDEV);
  }
  FS_TRY(const PathFd from_fd, OpenNode(from));
  FS_TRY(const PathFd to_fd, OpenNode(to));
  InodeRef moved;
  InodeRef replaced;
  if (const auto stat = StatAt(FdRef(from_fd->get()), from_name); stat) {
    moved = inodes_.FindKey(KeyOf(*stat));
  }
  if (const auto stat = StatAt(FdRef(to_fd->get()), to_name); stat) {
    replaced = inodes_.FindKey(KeyOf(*stat));
  }
  // Both lose their names while these change; what still has one gets it back. Two names of one
  // inode: rename does nothing. The one that may lose it for good comes first: it may not be held.
  if (replaced != nullptr && replaced != moved) {
    const auto held = inodes_.LoseName(replaced, to->node, to_name);
    const bool for_good = (flags & (RENAME_EXCHANGE | RENAME_NOREPLACE)) == 0;
    if (for_good && !held && held.error().value == ENFILE) {
      return tl::unexpected(held.error());
    }
  }
  if (moved != nullptr) {
    (void)inodes_.LoseName(moved, from->node, from_name);
  }
  const bool done =
      ::syscall(SYS_renameat2, from_fd->get(), from_name, to_fd->get(), to_name, flags) == 0;
  const int error = errno;
  if (moved != nullptr) {
    inodes_.SetName(moved, done ? to->node : from->node, done ? to_name : from_name);
  }
  if (replaced != nullptr && replaced != moved) {
    if (!done) {
      inodes_.SetName(replaced, to->node, to_name);
    } else if ((flags & RENAME_EXCHANGE) != 0) {
      inodes_.SetName(replaced, from->node, from_name);
    }
  }
  if (!done) {
    errno = error;
    return LastErrno();
  }
  return 0;
}

FsResult<size_t> FileServer::Link(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_link_in>());
  FS_TRY(const char* name, call.TakeName());
  FS_TRY(const InodeRef parent, FindWritable(call.header().nodeid));
  FS_TRY(const InodeRef inode, inodes_.Find(args.oldnodeid));
  if (inode->share != parent->share) {
    return FsError(EXDEV);
  }
  FS_TRY(const PathFd directory, OpenNode(parent));
  FS_TRY(const PathFd fd, OpenNode(inode));
  // Through the descriptor's link in /proc: AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH.
  if (::linkat(AT_FDCWD, DescriptorPath(fd->get()).c_str(), directory->get(), name,
               AT_SYMLINK_FOLLOW) != 0) {
    return LastErrno();
  }
  FS_TRY(const Entry entry, FindEntry(parent, FdRef(directory->get()), name));
  return ReplyEntry(call, entry);
}

}  // namespace wyvern::fs
