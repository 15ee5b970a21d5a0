// OPENDIR, READDIR, READDIRPLUS, RELEASEDIR, FSYNCDIR.
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "fs/file_server.h"

namespace wyvern::fs {

// One entry of getdents64(2), checked.
struct DirectoryEntry {
  uint64_t inode = 0;
  uint64_t next = 0;  // cookie of the entry behind it
  uint8_t type = 0;
  const char* name = nullptr;
  size_t length = 0;
};

namespace {

constexpr size_t kMinChunk = 512;  // holds the longest name
constexpr size_t kMaxChunk = 32 << 10;

// Puts the fixed part, the name and its padding at `to`, which has room.
void PutDirent(const DirectoryEntry& entry, std::byte* to, size_t size) {
  fuse_dirent out{};
  out.ino = entry.inode;
  out.off = entry.next;
  out.namelen = static_cast<uint32_t>(entry.length);
  out.type = entry.type;
  std::memset(to, 0, size);
  std::memcpy(to, &out, FUSE_NAME_OFFSET);
  std::memcpy(to + FUSE_NAME_OFFSET, entry.name, entry.length);
}

}  // namespace

FsResult<UniqueFd> FileServer::OpenDirectory(const InodeRef& inode) {
  if (!inode->IsDirectory()) {
    return FsError(ENOTDIR);
  }
  FS_TRY(const PathFd path, OpenNode(inode));
  UniqueFd fd(::openat(path->get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return LastErrno();
  }
  return fd;
}

FsResult<size_t> FileServer::OpenDir(FuseCall& call) {
  FS_TRY(const InodeRef inode, inodes_.Find(call.header().nodeid));
  FS_TRY(UniqueFd fd, OpenDirectory(inode));
  fuse_open_out out{};
  const ExportPolicy& policy = inode->share->policy;
  if (policy.read_only && policy.cache.count() > 0) {
    out.open_flags = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR;
  }
  auto handle = std::make_shared<struct Handle>(std::move(fd), inode->node, true, inode->share);
  FS_TRY(out.fh, handles_.Add(std::move(handle)));
  auto reply = call.Reply(out);
  if (!reply) {
    handles_.Remove(out.fh);
  }
  return reply;
}

FsResult<size_t> FileServer::ReadDir(FuseCall& call) {
  return ListDirectory(call, false);
}

FsResult<size_t> FileServer::ReadDirPlus(FuseCall& call) {
  return ListDirectory(call, true);
}

bool FileServer::AppendEntry(FuseCall& call, const HandleRef& handle, const InodeRef& parent,
                             const DirectoryEntry& entry, std::span<std::byte> reply,
                             size_t* used) {
  const bool plus = call.header().opcode == FUSE_READDIRPLUS;
  const size_t prefix = plus ? sizeof(fuse_entry_out) : 0;
  const size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + entry.length);
  if (prefix + size > reply.size() - *used) {
    return false;
  }
  if (plus) {
    fuse_entry_out out{};  // node 0: no lookup was made, the guest asks itself when it wants to
    const std::string_view name(entry.name, entry.length);
    if (name != "." && name != "..") {
      if (const auto found = FindEntry(parent, handle->fd, entry.name); found) {
        out = ToEntryOut(*found);
      }
    }
    std::memcpy(reply.data() + *used, &out, sizeof(out));
  }
  PutDirent(entry, reply.data() + *used + prefix, size);
  *used += prefix + size;
  return true;
}

FsResult<size_t> FileServer::ListDirectory(FuseCall& call, bool plus) {
  FS_TRY(const auto args, call.Take<fuse_read_in>());
  FS_TRY(const HandleRef handle, handles_.Find(args.fh, true));
  FS_TRY(const InodeRef parent, inodes_.Find(call.header().nodeid));
  if (handle->node != parent->node) {
    return FsError(EBADF);
  }
  const size_t limit = std::min({size_t{args.size}, call.reply_capacity(), kMaxScratchReply});
  Scratch& scratch = call.scratch();
  if (scratch.reply.size() < limit) {
    scratch.reply.resize(limit);
  }
  const auto reply = std::span(scratch.reply).first(limit);
  // An entry with attributes is about four times as long as the host's: more would be read only to
  // be read again.
  const size_t chunk = std::clamp(plus ? limit / 4 : limit, kMinChunk, kMaxChunk);
  if (scratch.entries.size() < chunk) {
    scratch.entries.resize(chunk);
  }
  const std::lock_guard lock(handle->mu);
  const auto start = static_cast<off_t>(args.offset);
  if (handle->position != start) {
    // Cookies are the host's 64-bit values, negative ones included: only errno tells a failure.
    errno = 0;
    if (::lseek(handle->fd.get(), start, SEEK_SET) == -1 && errno != 0) {
      return LastErrno();
    }
    handle->position = start;
  }
  size_t used = 0;
  for (;;) {
    const ssize_t bytes = ::getdents64(handle->fd.get(), scratch.entries.data(), chunk);
    if (bytes < 0 && used == 0) {
      return LastErrno();
    }
    if (bytes <= 0) {
      break;
    }
    size_t at = 0;
    bool full = false;
    while (!full && at < static_cast<size_t>(bytes)) {
      const auto* host = reinterpret_cast<const dirent64*>(scratch.entries.data() + at);
      const DirectoryEntry entry{host->d_ino, static_cast<uint64_t>(host->d_off), host->d_type,
                                 host->d_name, ::strnlen(host->d_name, NAME_MAX)};
      full = !AppendEntry(call, handle, parent, entry, reply, &used);
      if (!full) {
        handle->position = host->d_off;
        at += host->d_reclen;
      }
    }
    if (full) {
      // The rest is read again from where the guest will go on.
      ::lseek(handle->fd.get(), handle->position, SEEK_SET);
      if (used == 0) {
        return FsError(EINVAL);  // as getdents: not even one entry fits
      }
      break;
    }
    if (used >= limit / 2) {
      break;
    }
  }
  return call.ReplyBytes(reply.first(used));
}

FsResult<size_t> FileServer::ReleaseDir(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_release_in>());
  handles_.Remove(args.fh);
  return 0;
}

FsResult<size_t> FileServer::FsyncDir(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_fsync_in>());
  FS_TRY(const HandleRef handle, handles_.Find(args.fh, true));
  const bool data_only = (args.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0;
  const int fd = handle->fd.get();
  if ((data_only ? ::fdatasync(fd) : ::fsync(fd)) != 0) {
    return LastErrno();
  }
  return 0;
}

}  // namespace wyvern::fs
