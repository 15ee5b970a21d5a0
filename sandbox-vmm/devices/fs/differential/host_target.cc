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

#include "fs/differential/host_file.h"

namespace wyvern::fs::differential {

namespace {

struct HostNode : Node {
  UniqueFd fd;  // O_PATH
};

const HostNode& Host(const NodeRef& node) {
  return static_cast<const HostNode&>(*node);
}

int FdOf(const NodeRef& node) {
  return Host(node).fd.get();
}

// The calling thread as a user, and the process with a umask, for one call.
class AsUser {
 public:
  explicit AsUser(const User& user, uint32_t umask = 0) : changed_(user.uid != 0) {
    ::umask(umask);
    if (changed_) {
      ::setfsgid(user.gid);
      ::setfsuid(user.uid);
    }
  }

  ~AsUser() {
    ::umask(0);
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

int OpenNode(int directory, const std::string& name, NodeRef* out) {
  auto node = std::make_shared<HostNode>();
  node->fd = UniqueFd(::openat(directory, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!node->fd.valid()) {
    return errno;
  }
  Attributes attributes;
  const int error = ReadHostAttributes(node->fd.get(), &attributes);
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
  return ReadHostAttributes(FdOf(node), out);
}

int HostTarget::Open(const NodeRef& directory, const std::string& name, const NodeRef& /*existing*/,
                     const Step& step, FileRef* out) {
  const AsUser user(step.user, step.umask);
  const int flags = static_cast<int>(step.flags) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
  return Keep(UniqueFd(::openat(FdOf(directory), name.c_str(), flags, step.mode)), out);
}

int HostTarget::MakeTemporary(const NodeRef& directory, const Step& step, FileRef* out) {
  const AsUser user(step.user, step.umask);
  const int flags = static_cast<int>(step.flags) & (O_ACCMODE | O_EXCL | O_DIRECT | O_APPEND);
  return Keep(UniqueFd(::openat(FdOf(directory), ".", flags | O_TMPFILE | O_CLOEXEC, step.mode)),
              out);
}

int HostTarget::LinkFile(File& file, const NodeRef& directory, const std::string& name) {
  return HostError(::linkat(AT_FDCWD, HostPath(static_cast<HostFile&>(file).fd()).c_str(),
                            FdOf(directory), name.c_str(), AT_SYMLINK_FOLLOW));
}

int HostTarget::MakeDirectory(const NodeRef& directory, const std::string& name, const Step& step) {
  const AsUser user(step.user, step.umask);
  return HostError(::mkdirat(FdOf(directory), name.c_str(), step.mode));
}

int HostTarget::MakeNode(const NodeRef& directory, const std::string& name, const Step& step) {
  const AsUser user(step.user, step.umask);
  return HostError(
      ::mknodat(FdOf(directory), name.c_str(), step.mode, makedev(step.major, step.minor)));
}

int HostTarget::MakeSymlink(const NodeRef& directory, const std::string& name, const Step& step) {
  const AsUser user(step.user);
  return HostError(::symlinkat(step.text.c_str(), FdOf(directory), name.c_str()));
}

int HostTarget::Remove(const NodeRef& directory, const std::string& name, bool is_directory) {
  return HostError(::unlinkat(FdOf(directory), name.c_str(), is_directory ? AT_REMOVEDIR : 0));
}

int HostTarget::Rename(const NodeRef& from, const std::string& name, const NodeRef& to,
                       const std::string& new_name, uint32_t flags) {
  return HostError(
      ::syscall(SYS_renameat2, FdOf(from), name.c_str(), FdOf(to), new_name.c_str(), flags));
}

int HostTarget::Link(const NodeRef& node, const NodeRef& directory, const std::string& name) {
  return HostError(::linkat(AT_FDCWD, HostPath(FdOf(node)).c_str(), FdOf(directory), name.c_str(),
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
  return HostError(length);
}

int HostTarget::Truncate(const NodeRef& node, uint64_t size) {
  return HostError(::truncate(HostPath(FdOf(node)).c_str(), static_cast<off_t>(size)));
}

int HostTarget::ChangeMode(const NodeRef& node, uint32_t mode) {
  return HostError(::chmod(HostPath(FdOf(node)).c_str(), mode));
}

int HostTarget::ChangeOwner(const NodeRef& node, const User& owner) {
  return HostError(
      ::fchownat(FdOf(node), "", owner.uid, owner.gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

int HostTarget::SetTimes(const NodeRef& node, const TimeValue& atime, const TimeValue& mtime) {
  const struct timespec times[2] = {{atime.seconds, atime.nanoseconds},
                                    {mtime.seconds, mtime.nanoseconds}};
  return HostError(::utimensat(FdOf(node), "", times, AT_EMPTY_PATH));
}

int HostTarget::SetXattr(const NodeRef& node, const std::string& name, const std::string& value,
                         uint32_t flags) {
  return HostError(::setxattr(HostPath(FdOf(node)).c_str(), name.c_str(), value.data(),
                              value.size(), static_cast<int>(flags)));
}

int HostTarget::GetXattr(const NodeRef& node, const std::string& name, std::string* value) {
  const ssize_t length =
      ::getxattr(HostPath(FdOf(node)).c_str(), name.c_str(), HostBuffer(), kHostBufferBytes);
  if (length >= 0) {
    value->assign(HostBuffer(), static_cast<size_t>(length));
  }
  return HostError(length);
}

int HostTarget::ListXattrs(const NodeRef& node, std::vector<std::string>* names) {
  const ssize_t length = ::listxattr(HostPath(FdOf(node)).c_str(), HostBuffer(), kHostBufferBytes);
  if (length < 0) {
    return errno;
  }
  for (ssize_t at = 0; at < length;) {
    names->emplace_back(HostBuffer() + at);
    at += static_cast<ssize_t>(names->back().size()) + 1;
  }
  return 0;
}

int HostTarget::RemoveXattr(const NodeRef& node, const std::string& name) {
  return HostError(::removexattr(HostPath(FdOf(node)).c_str(), name.c_str()));
}

int HostTarget::List(const NodeRef& directory, size_t buffer, std::vector<DirectoryItem>* out) {
  const UniqueFd fd(::openat(FdOf(directory), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return errno;
  }
  for (;;) {
    const ssize_t bytes = ::getdents64(fd.get(), HostBuffer(), buffer);
    if (bytes <= 0) {
      return HostError(bytes);
    }
    for (ssize_t at = 0; at < bytes;) {
      const auto* entry = reinterpret_cast<const dirent64*>(HostBuffer() + at);
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
