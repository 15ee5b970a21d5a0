// READ, WRITE, FSYNC, FALLOCATE, LSEEK, COPY_FILE_RANGE: straight between host files and guest
// memory.
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "fs/credentials.h"
#include "fs/file_server.h"

namespace wyvern::fs {

namespace {

// One call may keep a thread of the pool for so much; the guest's kernel or libc goes on with the
// rest.
constexpr uint64_t kMaxCopyBytes = 1ULL << 30U;

// Calls transfer(iovecs, count, offset) over the whole list, IOV_MAX parts at a time, until it is
// short. The bytes done; an errno only if nothing was.
template <typename Transfer>
FsResult<size_t> TransferAll(std::span<iovec> parts, off_t offset, Transfer transfer) {
  size_t done = 0;
  while (!parts.empty()) {
    const auto batch = parts.first(std::min<size_t>(parts.size(), IOV_MAX));
    const ssize_t bytes =
        transfer(batch.data(), static_cast<int>(batch.size()), offset + static_cast<off_t>(done));
    if (bytes < 0) {
      if (errno == EINTR) {
        continue;
      }
      if (done > 0) {
        return done;
      }
      return LastErrno();
    }
    done += static_cast<size_t>(bytes);
    if (static_cast<size_t>(bytes) < IovecLength(batch)) {
      return done;
    }
    parts = parts.subspan(batch.size());
  }
  return done;
}

bool IsDirect(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_DIRECT) != 0;
}

bool FitsOffset(uint64_t offset, uint64_t length) {
  return offset <= static_cast<uint64_t>(INT64_MAX) &&
         length <= static_cast<uint64_t>(INT64_MAX) - offset;
}

}  // namespace

FsResult<size_t> FileServer::Read(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_read_in>());
  FS_TRY(const HandleRef handle, handles_.Find(args.fh, false));
  const size_t size = call.MapOutput(std::min(args.size, kMaxIoBytes));
  if (!FitsOffset(args.offset, size)) {
    return FsError(EINVAL);
  }
  const int fd = handle->fd.get();
  return TransferAll(call.scratch().data, static_cast<off_t>(args.offset),
                     [fd](const iovec* parts, int count, off_t offset) {
                       return ::preadv(fd, parts, count, offset);
                     });
}

FsResult<size_t> FileServer::Write(FuseCall& call) {
  FS_TRY(const auto args, call.LoadWrite());
  FS_TRY(const HandleRef handle, handles_.Find(args.fh, false));
  if (!FitsOffset(args.offset, args.size)) {
    return FsError(EFBIG);
  }
  const ScopedKillPrivileges kill((args.write_flags & FUSE_WRITE_KILL_SUIDGID) != 0);
  if (!kill.ok()) {
    return FsError(EPERM);
  }
  // A page of a mapping goes where it belongs, whatever the file's flags say.
  const bool append = (args.flags & O_APPEND) != 0 && (args.write_flags & FUSE_WRITE_CACHE) == 0;
  const auto write = [&](int fd) {
    return TransferAll(call.scratch().data, static_cast<off_t>(args.offset),
                       [fd, append](const iovec* parts, int count, off_t offset) {
                         return ::pwritev2(fd, parts, count, offset, append ? RWF_APPEND : 0);
                       });
  };
  FsResult<size_t> done = write(handle->fd.get());
  // The last page of a mapping comes up to the file's end, through whichever of the inode's files is
  // open for writing; one with O_DIRECT takes no such length.
  if (!done && done.error().value == EINVAL && (args.write_flags & FUSE_WRITE_CACHE) != 0 &&
      IsDirect(handle->fd.get())) {
    const UniqueFd buffered(::open(DescriptorPath(handle->fd.get()).c_str(),
                                   O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    if (!buffered.valid()) {
      return LastErrno();
    }
    done = write(buffered.get());
  }
  FS_TRY(const size_t written, done);
  fuse_write_out out{};
  out.size = static_cast<uint32_t>(written);
  return call.Reply(out);
}

FsResult<size_t> FileServer::Fsync(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_fsync_in>());
  FS_TRY(const HandleRef handle, handles_.Find(args.fh, false));
  const bool data_only = (args.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0;
  const int fd = handle->fd.get();
  if ((data_only ? ::fdatasync(fd) : ::fsync(fd)) != 0) {
    return LastErrno();
  }
  return 0;
}

FsResult<size_t> FileServer::Fallocate(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_fallocate_in>());
  FS_TRY(const HandleRef handle, handles_.Find(args.fh, false));
  // What a guest's kernel sends; ranges are neither taken out nor put in, nor blocks unshared.
  if ((args.mode & ~uint32_t{FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE}) !=
      0) {
    return FsError(EOPNOTSUPP);
  }
  if (!FitsOffset(args.offset, args.length)) {
    return FsError(EFBIG);
  }
  if (::fallocate(handle->fd.get(), static_cast<int>(args.mode), static_cast<off_t>(args.offset),
                  static_cast<off_t>(args.length)) != 0) {
    return LastErrno();
  }
  return 0;
}

FsResult<size_t> FileServer::Seek(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_lseek_in>());
  FS_TRY(const HandleRef handle, handles_.Find(args.fh, false));
  // The other origins concern the guest's own file position.
  if (args.whence != SEEK_DATA && args.whence != SEEK_HOLE) {
    return FsError(EINVAL);
  }
  const off_t offset =
      ::lseek(handle->fd.get(), static_cast<off_t>(args.offset), static_cast<int>(args.whence));
  if (offset < 0) {
    return LastErrno();
  }
  fuse_lseek_out out{};
  out.offset = static_cast<uint64_t>(offset);
  return call.Reply(out);
}

FsResult<size_t> FileServer::CopyFileRange(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_copy_file_range_in>());
  FS_TRY(const HandleRef from, handles_.Find(args.fh_in, false));
  FS_TRY(const HandleRef to, handles_.Find(args.fh_out, false));
  auto in_offset = static_cast<off64_t>(args.off_in);
  auto out_offset = static_cast<off64_t>(args.off_out);
  const uint64_t length = std::min(args.len, kMaxCopyBytes);
  if (args.flags != 0 || !FitsOffset(args.off_in, length) || !FitsOffset(args.off_out, length)) {
    return FsError(EINVAL);
  }
  const ssize_t done =
      ::copy_file_range(from->fd.get(), &in_offset, to->fd.get(), &out_offset, length, 0);
  if (done < 0) {
    return LastErrno();
  }
  fuse_write_out out{};
  out.size = static_cast<uint32_t>(done);
  return call.Reply(out);
}

}  // namespace wyvern::fs
