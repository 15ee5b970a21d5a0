// SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR: by the descriptor's link in /proc, as the f*xattr
// calls refuse O_PATH descriptors.
#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>

#include "fs/credentials.h"
#include "fs/file_server.h"

namespace wyvern::fs {

namespace {

// An ACL of somebody who is neither of the file's group nor privileged takes set-group-ID away. The
// host would do so only if we were not of that group either, and we are of group 0.
FsResult<> DropSetGroupId(const HeldFd& fd, const std::string& path) {
  FS_TRY(const struct statx stat, StatAt(FdRef(fd.get()), ""));
  if ((stat.stx_mode & S_ISGID) != 0 &&
      ::chmod(path.c_str(), stat.stx_mode & 07777U & ~uint32_t{S_ISGID}) != 0) {
    return LastErrno();
  }
  return {};
}

}  // namespace

FsResult<size_t> FileServer::SetXattr(FuseCall& call) {
  // FUSE_SETXATTR_EXT comes with POSIX ACLs: else the structure ends after its first two words.
  FS_TRY(const auto args,
         call.TakePrefix<fuse_setxattr_in>(posix_acl_.load(std::memory_order_relaxed)
                                               ? sizeof(fuse_setxattr_in)
                                               : size_t{FUSE_COMPAT_SETXATTR_IN_SIZE}));
  FS_TRY(const char* name, call.TakeString(XATTR_NAME_MAX));
  if (args.size > XATTR_SIZE_MAX) {
    return FsError(E2BIG);
  }
  FS_TRY(const auto value, call.TakeBytes(args.size));
  FS_TRY(const InodeRef inode, FindWritable(call.header().nodeid));
  FS_TRY(const PathFd fd, OpenNode(inode));
  const bool kill = (args.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) != 0;
  const std::string path = DescriptorPath(fd->get());
  if (kill) {
    FS_TRY_VOID(DropSetGroupId(*fd, path));
  }
  const ScopedKillPrivileges without(kill);
  if (!without.ok()) {
    return FsError(EPERM);
  }
  if (::setxattr(path.c_str(), name, value.data(), value.size(), static_cast<int>(args.flags)) !=
      0) {
    return LastErrno();
  }
  return 0;
}

namespace {

// The two forms of GETXATTR and LISTXATTR: size 0 asks how long the value is. `get(buffer, size)`
// is the system call.
template <typename Get>
FsResult<size_t> SizeOrValue(FuseCall& call, uint32_t size, Get get) {
  if (size == 0) {
    const ssize_t length = get(nullptr, 0);
    if (length < 0) {
      return LastErrno();
    }
    fuse_getxattr_out out{};
    out.size = static_cast<uint32_t>(length);
    return call.Reply(out);
  }
  const size_t room = std::min<size_t>(size, XATTR_SIZE_MAX);
  auto& buffer = call.scratch().reply;
  if (buffer.size() < room) {
    buffer.resize(room);
  }
  const ssize_t length = get(buffer.data(), room);
  if (length < 0) {
    return LastErrno();
  }
  return call.ReplyBytes(std::span(buffer).first(static_cast<size_t>(length)));
}

}  // namespace

FsResult<size_t> FileServer::GetXattr(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_getxattr_in>());
  FS_TRY(const char* name, call.TakeString(XATTR_NAME_MAX));
  FS_TRY(const InodeRef inode, inodes_.Find(call.header().nodeid));
  FS_TRY(const PathFd fd, OpenNode(inode));
  const std::string path = DescriptorPath(fd->get());
  return SizeOrValue(call, args.size, [&](void* buffer, size_t size) {
    return ::getxattr(path.c_str(), name, buffer, size);
  });
}

FsResult<size_t> FileServer::ListXattr(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_getxattr_in>());
  FS_TRY(const InodeRef inode, inodes_.Find(call.header().nodeid));
  FS_TRY(const PathFd fd, OpenNode(inode));
  const std::string path = DescriptorPath(fd->get());
  return SizeOrValue(call, args.size, [&](void* buffer, size_t size) {
    return ::listxattr(path.c_str(), static_cast<char*>(buffer), size);
  });
}

FsResult<size_t> FileServer::RemoveXattr(FuseCall& call) {
  FS_TRY(const char* name, call.TakeString(XATTR_NAME_MAX));
  FS_TRY(const InodeRef inode, FindWritable(call.header().nodeid));
  FS_TRY(const PathFd fd, OpenNode(inode));
  if (::removexattr(DescriptorPath(fd->get()).c_str(), name) != 0) {
    return LastErrno();
  }
  return 0;
}

}  // namespace wyvern::fs
