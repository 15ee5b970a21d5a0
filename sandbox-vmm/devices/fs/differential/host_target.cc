#include "fs/differential/host_target.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace wyvern::fs::differential {

namespace {

int ErrorOf(long result) {
  return result < 0 ? errno : 0;
}

// Memory that O_DIRECT takes.
class AlignedBuffer {
 public:
  static constexpr size_t kSize = 2 << 20;

  AlignedBuffer() : bytes_(static_cast<char*>(std::aligned_alloc(4096, kSize))) {}

  ~AlignedBuffer() { std::free(bytes_); }

  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  char* data() { return bytes_; }

 private:
  char* bytes_;
};

char* IoBuffer() {
  static thread_local AlignedBuffer buffer;
  return buffer.data();
}

struct HostNode : Node {
  UniqueFd fd;  // O_PATH
};

const HostNode& Host(const NodeRef& node) {
  return static_cast<const HostNode&>(*node);
}

int FdOf(const NodeRef& node) {
  return Host(node).fd.get();
}

// Leads to the very inode, whatever its type.
std::string PathOf(int fd) {
  return fmt::format("/proc/self/fd/{}", fd);
}

int ReadAttributes(int fd, Attributes* out) {
  struct stat stat {};

  if (::fstatat(fd, "", &stat, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) {
    return errno;
  }
  *out = {stat.st_mode,
          static_cast<uint32_t>(stat.st_nlink),
          stat.st_uid,
          stat.st_gid,
          static_cast<uint32_t>(stat.st_blksize),
          static_cast<uint64_t>(stat.st_size),
          stat.st_ino,
          major(stat.st_rdev),
          minor(stat.st_rdev),
          {stat.st_atim.tv_sec, stat.st_atim.tv_nsec},
          {stat.st_mtim.tv_sec, stat.st_mtim.tv_nsec}};
  return 0;
}

// The calling thread as a user, for one call. Raw calls: glibc's change every thread.
class AsUser {
 public:
  explicit AsUser(const User& user) : changed_(user.uid != 0) {
    if (changed_) {
      ::setfsgid(user.gid);
      ::setfsuid(user.uid);
    }
  }

  ~AsUser() {
    if (changed_) {
      const int error = errno;
      ::setfsuid(0);
      ::setfsgid(0);
      errno = error;
    }
  }

  AsUser(const AsUser&) = delete;
  AsUser& operator=(const AsUser&) = delete;

 private:
  const bool changed_;
};

class HostFile final : public File {
 public:
  explicit HostFile(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }

  int Read(uint64_t offset, size_t length, std::string* out) override {
    const ssize_t bytes = ::pread(fd(), IoBuffer(), length, static_cast<off_t>(offset));
    if (bytes < 0) {
      return errno;
    }
    out->assign(IoBuffer(), static_cast<size_t>(bytes));
    return 0;
  }

  int Write(uint64_t offset, const std::string& data, size_t* written) override {
    std::memcpy(IoBuffer(), data.data(), data.size());
    const ssize_t bytes = ::pwrite(fd(), IoBuffer(), data.size(), static_cast<off_t>(offset));
    *written = bytes < 0 ? 0 : static_cast<size_t>(bytes);
    return ErrorOf(bytes);
  }

  int Truncate(uint64_t size) override {
    return ErrorOf(::ftruncate(fd(), static_cast<off_t>(size)));
  }

  int Allocate(uint32_t mode, uint64_t offset, uint64_t length) override {
    return ErrorOf(::fallocate(fd(), static_cast<int>(mode), static_cast<off_t>(offset),
                               static_cast<off_t>(length)));
  }

  int Seek(uint32_t whence, uint64_t offset, uint64_t* out) override {
    const off_t found = ::lseek(fd(), static_cast<off_t>(offset), static_cast<int>(whence));
    *out = found < 0 ? 0 : static_cast<uint64_t>(found);
    return ErrorOf(found);
  }

  int CopyTo(File& to, uint64_t offset, uint64_t to_offset, uint64_t length,
             uint64_t* done) override {
    auto from_at = static_cast<off64_t>(offset);
    auto to_at = static_cast<off64_t>(to_offset);
    const ssize_t bytes =
        ::copy_file_range(fd(), &from_at, static_cast<HostFile&>(to).fd(), &to_at, length, 0);
    *done = bytes < 0 ? 0 : static_cast<uint64_t>(bytes);
    return ErrorOf(bytes);
  }

  int Sync() override { return ErrorOf(::fsync(fd())); }

  int GetAttributes(Attributes* out) override { return ReadAttributes(fd(), out); }

  int SetLock(const LockRange& range) override {
    struct flock lock = ToFlock(range);
    return ErrorOf(::fcntl(fd(), range.of_the_file ? F_OFD_SETLK : F_SETLK, &lock));
  }

  int GetLock(LockRange* range) override {
    struct flock lock = ToFlock(*range);
    if (::fcntl(fd(), range->of_the_file ? F_OFD_GETLK : F_GETLK, &lock) != 0) {
      return errno;
    }
    range->type = static_cast<uint32_t>(lock.l_type);
    range->start = static_cast<uint64_t>(lock.l_start);
    range->length = static_cast<uint64_t>(lock.l_len);
    return 0;
  }

  int Flock(uint32_t operation) override {
    return ErrorOf(::flock(fd(), static_cast<int>(operation) | LOCK_NB));
  }

 private:
  static struct flock ToFlock(const LockRange& range) {
    struct flock lock {};

    lock.l_type = static_cast<short>(range.type);
    lock.l_whence = SEEK_SET;
    lock.l_start = static_cast<off_t>(range.start);
    lock.l_len = static_cast<off_t>(range.length);
    return lock;
  }

  UniqueFd fd_;
};

int OpenNode(int directory, const std::string& name, NodeRef* out) {
  auto node = std::make_shared<HostNode>();
  node->fd = UniqueFd(::openat(directory, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!node->fd.valid()) {
    return errno;
  }
  Attributes attributes;
  const int error = ReadAttributes(node->fd.get(), &attributes);
  node->type = attributes.mode & S_IFMT;
  *out = std::move(node);
  return error;
}

int Keep(UniqueFd fd, FileRef* out) {
  const int error = errno;
  if (!fd.valid()) {
    return error;
  }
  *out = std::make_unique<HostFile>(std::move(fd));
  return 0;
}

}  // namespace

HostTarget::HostTarget(UniqueFd directory) {
  (void)OpenNode(directory.get(), ".", &root_);
}

int HostTarget::LookUp(const NodeRef& directory, const std::string& name, NodeRef* out) {
  return OpenNode(FdOf(directory), name, out);
}

int HostTarget::GetAttributes(const NodeRef& node, Attributes* out) {
  return ReadAttributes(FdOf(node), out);
}

int HostTarget::Open(const NodeRef& directory, const std::string& name, const NodeRef& /*existing*/,
                     const Step& step, FileRef* out) {
  const AsUser user(step.user);
  const int flags = static_cast<int>(step.flags) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
  return Keep(UniqueFd(::openat(FdOf(directory), name.c_str(), flags, step.mode)), out);
}

int HostTarget::MakeTemporary(const NodeRef& directory, const Step& step, FileRef* out) {
  const AsUser user(step.user);
  const int flags = static_cast<int>(step.flags) & (O_ACCMODE | O_EXCL | O_DIRECT | O_APPEND);
  return Keep(UniqueFd(::openat(FdOf(directory), ".", flags | O_TMPFILE | O_CLOEXEC, step.mode)),
              out);
}

int HostTarget::LinkFile(File& file, const NodeRef& directory, const std::string& name) {
  return ErrorOf(::linkat(AT_FDCWD, PathOf(static_cast<HostFile&>(file).fd()).c_str(),
                          FdOf(directory), name.c_str(), AT_SYMLINK_FOLLOW));
}

int HostTarget::MakeDirectory(const NodeRef& directory, const std::string& name, const Step& step) {
  const AsUser user(step.user);
  return ErrorOf(::mkdirat(FdOf(directory), name.c_str(), step.mode));
}

int HostTarget::MakeNode(const NodeRef& directory, const std::string& name, const Step& step) {
  const AsUser user(step.user);
  return ErrorOf(
      ::mknodat(FdOf(directory), name.c_str(), step.mode, makedev(step.major, step.minor)));
}

int HostTarget::MakeSymlink(const NodeRef& directory, const std::string& name, const Step& step) {
  const AsUser user(step.user);
  return ErrorOf(::symlinkat(step.text.c_str(), FdOf(directory), name.c_str()));
}

int HostTarget::Remove(const NodeRef& directory, const std::string& name, bool is_directory) {
  return ErrorOf(::unlinkat(FdOf(directory), name.c_str(), is_directory ? AT_REMOVEDIR : 0));
}

int HostTarget::Rename(const NodeRef& from, const std::string& name, const NodeRef& to,
                       const std::string& new_name, uint32_t flags) {
  return ErrorOf(
      ::syscall(SYS_renameat2, FdOf(from), name.c_str(), FdOf(to), new_name.c_str(), flags));
}

int HostTarget::Link(const NodeRef& node, const NodeRef& directory, const std::string& name) {
  return ErrorOf(::linkat(AT_FDCWD, PathOf(FdOf(node)).c_str(), FdOf(directory), name.c_str(),
                          AT_SYMLINK_FOLLOW));
}

int HostTarget::ReadLink(const NodeRef& node, std::string* out) {
  if (node->type != S_IFLNK) {
    return EINVAL;  // readlinkat of an empty name says ENOENT
  }
  std::array<char, 4096> target{};
  const ssize_t length = ::readlinkat(FdOf(node), "", target.data(), target.size());
  if (length >= 0) {
    out->assign(target.data(), static_cast<size_t>(length));
  }
  return ErrorOf(length);
}

int HostTarget::Truncate(const NodeRef& node, uint64_t size) {
  return ErrorOf(::truncate(PathOf(FdOf(node)).c_str(), static_cast<off_t>(size)));
}

int HostTarget::ChangeMode(const NodeRef& node, uint32_t mode) {
  return ErrorOf(::chmod(PathOf(FdOf(node)).c_str(), mode));
}

int HostTarget::ChangeOwner(const NodeRef& node, const User& owner) {
  return ErrorOf(
      ::fchownat(FdOf(node), "", owner.uid, owner.gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

int HostTarget::SetTimes(const NodeRef& node, const TimeValue& atime, const TimeValue& mtime) {
  const struct timespec times[2] = {{atime.seconds, atime.nanoseconds},
                                    {mtime.seconds, mtime.nanoseconds}};
  return ErrorOf(::utimensat(FdOf(node), "", times, AT_EMPTY_PATH));
}

int HostTarget::SetXattr(const NodeRef& node, const std::string& name, const std::string& value,
                         uint32_t flags) {
  return ErrorOf(::setxattr(PathOf(FdOf(node)).c_str(), name.c_str(), value.data(), value.size(),
                            static_cast<int>(flags)));
}

int HostTarget::GetXattr(const NodeRef& node, const std::string& name, std::string* value) {
  const ssize_t length = ::getxattr(PathOf(FdOf(node)).c_str(), name.c_str(), IoBuffer(), 1 << 16);
  if (length >= 0) {
    value->assign(IoBuffer(), static_cast<size_t>(length));
  }
  return ErrorOf(length);
}

int HostTarget::ListXattrs(const NodeRef& node, std::vector<std::string>* names) {
  const ssize_t length = ::listxattr(PathOf(FdOf(node)).c_str(), IoBuffer(), 1 << 16);
  if (length < 0) {
    return errno;
  }
  for (ssize_t at = 0; at < length;) {
    names->emplace_back(IoBuffer() + at);
    at += static_cast<ssize_t>(names->back().size()) + 1;
  }
  return 0;
}

int HostTarget::RemoveXattr(const NodeRef& node, const std::string& name) {
  return ErrorOf(::removexattr(PathOf(FdOf(node)).c_str(), name.c_str()));
}

int HostTarget::List(const NodeRef& directory, size_t buffer, std::vector<DirectoryItem>* out) {
  const UniqueFd fd(::openat(FdOf(directory), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return errno;
  }
  for (;;) {
    const ssize_t bytes = ::getdents64(fd.get(), IoBuffer(), buffer);
    if (bytes <= 0) {
      return ErrorOf(bytes);
    }
    for (ssize_t at = 0; at < bytes;) {
      const auto* entry = reinterpret_cast<const dirent64*>(IoBuffer() + at);
      const std::string name = entry->d_name;
      if (name != "." && name != "..") {
        out->push_back({name, entry->d_type});
      }
      at += entry->d_reclen;
    }
  }
}

int HostTarget::GetFileSystem(const NodeRef& node, FileSystemInfo* out) {
  struct statfs info {};

  if (::fstatfs(FdOf(node), &info) != 0) {
    return errno;
  }
  *out = {static_cast<uint64_t>(info.f_bsize), static_cast<uint64_t>(info.f_frsize),
          static_cast<uint64_t>(info.f_namelen), info.f_blocks, info.f_files};
  return 0;
}

}  // namespace wyvern::fs::differential
