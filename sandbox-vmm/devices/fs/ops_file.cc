// OPEN, CREATE, TMPFILE, RELEASE, FLUSH.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "fs/credentials.h"
#include "fs/file_server.h"

namespace wyvern::fs {

namespace {

// What of the guest's open flags reaches the host. O_APPEND goes with each write instead
// (RWF_APPEND), since the guest can switch it; O_SYNC is the guest kernel's: it sends FSYNC after
// the write. The rest would change what is opened.
int HostOpenFlags(uint32_t flags) {
  const int kept = static_cast<int>(flags) & (O_ACCMODE | O_TRUNC | O_DIRECT | O_NOATIME);
  return kept | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK;
}

bool Writes(uint32_t flags) {
  return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
}

}  // namespace

FsResult<UniqueFd> FileServer::OpenRegular(const InodeRef& inode, uint32_t flags,
                                           bool kill_privileges) {
  // Never a device, FIFO or socket of the host (CVE-2020-35517): the guest's kernel opens its own.
  if (!inode->IsRegular()) {
    return FsError(inode->IsDirectory() ? EISDIR : ENXIO);
  }
  if ((flags & O_ACCMODE) == O_ACCMODE) {
    return FsError(EINVAL);
  }
  if (inode->share->policy.read_only && Writes(flags)) {
    return FsError(EROFS);
  }
  FS_TRY(const PathFd path, OpenNode(inode));
  const ScopedKillPrivileges kill(kill_privileges && (flags & O_TRUNC) != 0);
  if (!kill.ok()) {
    return FsError(EPERM);
  }
  // The link in /proc must be followed, and leads to the very inode.
  UniqueFd fd(::open(DescriptorPath(path->get()).c_str(), HostOpenFlags(flags) & ~O_NOFOLLOW));
  if (!fd.valid()) {
    return LastErrno();
  }
  return fd;
}

// The reply of OPEN (no entry), CREATE and TMPFILE (with one).
FsResult<size_t> FileServer::OpenReply(FuseCall& call, const Entry* entry, UniqueFd fd,
                                       const InodeRef& inode, uint32_t flags) {
  struct Created {
    fuse_entry_out entry;
    fuse_open_out open;
  };

  static_assert(sizeof(Created) == sizeof(fuse_entry_out) + sizeof(fuse_open_out));
  fuse_open_out open{};
  if (inode->share->policy.cache.count() > 0) {
    open.open_flags = FOPEN_KEEP_CACHE;
  }
  // A close writes back what the guest changed by mmap, for a reader on the host. There is none
  // where the guest may cache, and nothing to write through a file that is open for reading; that
  // is one request less for each close. POSIX locks go with a close: FLUSH says so.
  if (!posix_locks_.load(std::memory_order_relaxed) &&
      (inode->share->policy.cache.count() > 0 || (flags & O_ACCMODE) == O_RDONLY)) {
    open.open_flags |= FOPEN_NOFLUSH;
  }
  auto handle = std::make_shared<struct Handle>(std::move(fd), inode->node, false, inode->share);
  FS_TRY(open.fh, handles_.Add(std::move(handle)));
  auto reply = entry == nullptr ? call.Reply(open) : call.Reply(Created{ToEntryOut(*entry), open});
  if (!reply) {
    handles_.Remove(open.fh);
  }
  return reply;
}

FsResult<size_t> FileServer::Open(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_open_in>());
  FS_TRY(const InodeRef inode, inodes_.Find(call.header().nodeid));
  const bool kill = (args.open_flags & FUSE_OPEN_KILL_SUIDGID) != 0;
  FS_TRY(UniqueFd fd, OpenRegular(inode, args.flags, kill));
  return OpenReply(call, nullptr, std::move(fd), inode, args.flags);
}

FsResult<size_t> FileServer::Create(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_create_in>());
  FS_TRY(const char* name, call.TakeName());
  FS_TRY(const InodeRef parent, FindWritable(call.header().nodeid));
  FS_TRY(const PathFd directory, OpenNode(parent));
  FS_TRY(const auto groups, call.FindGroups());
  const uint32_t mode = CreationMode(directory, args.mode, args.umask) & 07777U;
  UniqueFd fd;
  int error = 0;
  {
    FS_TRY(const auto as_user,
           ScopedCredentials::Assume(call.header().uid, call.header().gid, groups));
    // O_EXCL always: an existing name is opened by its inode below, after a look at its type.
    fd = UniqueFd(
        ::openat(directory->get(), name, HostOpenFlags(args.flags) | O_CREAT | O_EXCL, mode));
    error = errno;
  }
  const bool existed = !fd.valid() && error == EEXIST && (args.flags & O_EXCL) == 0;
  if (!fd.valid() && !existed) {
    errno = error;
    return LastErrno();
  }
  FS_TRY(const Entry entry, FindEntry(parent, FdRef(directory->get()), name));
  auto opened = existed ? OpenRegular(entry.inode, args.flags,
                                      (args.open_flags & FUSE_OPEN_KILL_SUIDGID) != 0)
                        : FsResult<UniqueFd>(std::move(fd));
  auto reply = opened ? OpenReply(call, &entry, std::move(*opened), entry.inode, args.flags)
                      : FsResult<size_t>(tl::unexpected(opened.error()));
  if (!reply) {
    Forget(entry.inode->node, 1);
  }
  return reply;
}

FsResult<size_t> FileServer::TmpFile(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_create_in>());
  FS_TRY(const InodeRef parent, FindWritable(call.header().nodeid));
  FS_TRY(const PathFd directory, OpenNode(parent));
  if (!parent->IsDirectory()) {
    return FsError(ENOTDIR);
  }
  FS_TRY(const auto groups, call.FindGroups());
  const uint32_t mode = CreationMode(directory, args.mode, args.umask) & 07777U;
  UniqueFd fd;
  {
    FS_TRY(const auto as_user,
           ScopedCredentials::Assume(call.header().uid, call.header().gid, groups));
    const int exclusive = static_cast<int>(args.flags) & O_EXCL;
    fd =
        UniqueFd(::openat(directory->get(), ".",
                          (HostOpenFlags(args.flags) & ~O_NOFOLLOW) | O_TMPFILE | exclusive, mode));
    if (!fd.valid()) {
      return LastErrno();
    }
  }
  Entry entry;
  FS_TRY(entry.stat, StatAt(fd, ""));
  InodeTable::Found found;
  found.key = KeyOf(entry.stat);
  found.file_type = entry.stat.stx_mode & S_IFMT;
  found.share = parent->share;
  found.keep_resident = true;
  found.nameless = true;
  UniqueFd path(::open(DescriptorPath(fd.get()).c_str(), O_PATH | O_CLOEXEC));
  if (!path.valid()) {
    return LastErrno();
  }
  FS_TRY(entry.inode, inodes_.Remember(found, std::move(path)));
  auto reply = OpenReply(call, &entry, std::move(fd), entry.inode, args.flags);
  if (!reply) {
    Forget(entry.inode->node, 1);
  }
  return reply;
}

FsResult<size_t> FileServer::Release(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_release_in>());
  HandleRef handle = handles_.Remove(args.fh);
  if (handle == nullptr) {
    return 0;
  }
  // The host's flock(2) lock is the open file's; a request under way may still hold that.
  if ((args.release_flags & FUSE_RELEASE_FLOCK_UNLOCK) != 0 && flock_locks_.load()) {
    ::flock(handle->fd.get(), LOCK_UN);
  }
  if (posix_locks_.load(std::memory_order_relaxed)) {
    locks_.DropHandle(handle->node, args.fh);
  }
  handle.reset();
  waits_.NoteChange();
  return 0;
}

FsResult<size_t> FileServer::Flush(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_flush_in>());
  FS_TRY(const HandleRef handle, handles_.Find(args.fh, false));
  // fcntl(2): a process that closes any descriptor of a file gives up all its locks on it.
  if (posix_locks_.load(std::memory_order_relaxed) &&
      locks_.DropOwner(handle->node, args.lock_owner)) {
    waits_.NoteChange();
  }
  // What close(2) would report (NFS, quota), without giving the file up.
  const int copy = ::fcntl(handle->fd.get(), F_DUPFD_CLOEXEC, 0);
  if (copy < 0 || ::close(copy) != 0) {
    return LastErrno();
  }
  return 0;
}

}  // namespace wyvern::fs
