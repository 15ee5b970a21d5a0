// GETLK, SETLK, SETLKW, INTERRUPT, and the requests that wait.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "fs/file_server.h"

namespace wyvern::fs {

namespace {

// flock(2) locks belong to the open file, in the guest as here: the handle's own descriptor.
FsResult<> TryFlock(Handle& handle, uint32_t type) {
  int operation = LOCK_UN;
  if (type == F_RDLCK) {
    operation = LOCK_SH;
  } else if (type == F_WRLCK) {
    operation = LOCK_EX;
  } else if (type != F_UNLCK) {
    return FsError(EINVAL);
  }
  if (::flock(handle.fd.get(), operation | LOCK_NB) != 0) {
    return LastErrno();
  }
  handle.flocked.store(operation != LOCK_UN);
  return {};
}

bool IsFlock(const fuse_lk_in& args) {
  return (args.lk_flags & FUSE_LK_FLOCK) != 0;
}

}  // namespace

// For writing, since the owner's later locks may be exclusive, unless that is impossible: then an
// exclusive lock is EBADF. (A program that somebody has locked cannot be started on the host.)
FsResult<UniqueFd> FileServer::OpenForLocks(const struct Handle& handle) const {
  const std::string name = DescriptorPath(handle.fd.get());
  constexpr int kFlags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  UniqueFd fd;
  if (!handle.share->policy.read_only) {
    fd = UniqueFd(::open(name.c_str(), O_RDWR | kFlags));
  }
  if (!fd.valid()) {
    fd = UniqueFd(::open(name.c_str(), O_RDONLY | kFlags));
  }
  if (!fd.valid()) {
    return LastErrno();
  }
  return fd;
}

FsResult<> FileServer::TryLock(uint64_t node, const fuse_lk_in& args) {
  FS_TRY(const InodeRef inode, inodes_.Find(node));
  FS_TRY(const HandleRef handle, handles_.Find(args.fh, false));
  if (handle->node != inode->node) {
    return FsError(EBADF);
  }
  if (IsFlock(args)) {
    return flock_locks_.load() ? TryFlock(*handle, args.lk.type) : FsError(ENOSYS);
  }
  if (!posix_locks_.load()) {
    return FsError(ENOSYS);
  }
  return locks_.Set(handle, args.fh, args, [&] { return OpenForLocks(*handle); });
}

FsResult<size_t> FileServer::SetLock(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_lk_in>());
  const auto taken = TryLock(call.header().nodeid, args);
  if (!taken) {
    if (taken.error().value == EAGAIN && call.header().opcode == FUSE_SETLKW) {
      call.WaitForLock(args);
    }
    return tl::unexpected(taken.error());
  }
  if (args.lk.type != F_WRLCK) {
    waits_.NoteChange();  // given up, or made weaker
  }
  return 0;
}

FsResult<size_t> FileServer::GetLock(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_lk_in>());
  if (!posix_locks_.load() || IsFlock(args)) {
    return FsError(ENOSYS);
  }
  FS_TRY(const InodeRef inode, inodes_.Find(call.header().nodeid));
  FS_TRY(const HandleRef handle, handles_.Find(args.fh, false));
  if (handle->node != inode->node) {
    return FsError(EBADF);
  }
  fuse_lk_out out{};
  FS_TRY(out.lk, locks_.Get(handle, args));
  return call.Reply(out);
}

// Only requests that wait can be interrupted; any other one ends by itself. Never answered.
FsResult<size_t> FileServer::Interrupt(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_interrupt_in>());
  waits_.Interrupt(args.unique);
  return 0;
}

std::vector<LockWaits::Ended> FileServer::RetryWaits() {
  return waits_.Retry(
      [this](const LockWaits::Request& wait) { return TryLock(wait.node, wait.args); });
}

}  // namespace wyvern::fs
