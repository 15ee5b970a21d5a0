#include "storage/remove_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "storage/rootfs.h"

namespace wyvern::runtime {
namespace {

// A directory, on the same mount as `dir`.
Result<UniqueFd> OpenOnSameMount(FdRef dir, const std::string& name) {
  open_how how = {};
  how.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS;
  UniqueFd fd(static_cast<int>(syscall(SYS_openat2, dir.get(), name.c_str(), &how, sizeof(how))));
  if (!fd.valid() && errno == EXDEV) {
    return Fail(Code::kFailedPrecondition, "something is mounted on " + name);
  }
  if (!fd.valid()) {
    return SysError("open " + name);
  }
  return fd;
}

struct CloseDirectory {
  void operator()(DIR* entries) const { static_cast<void>(closedir(entries)); }
};

// Depth first. The way back up is "..", so that no descriptors are held for it.
class TreeWalk {
 public:
  // Leaves `top` empty.
  static Result<> Empty(UniqueFd top);

 private:
  struct Level {
    std::string name;
    dev_t device = 0;
    ino_t inode = 0;
    std::vector<std::string> directories;  // not yet removed
  };

  static Result<Level> Enter(FdRef dir, const std::string& name);
  static Result<> RemoveEntry(FdRef dir, const dirent& entry, Level& level);
};

Result<> TreeWalk::RemoveEntry(FdRef dir, const dirent& entry, Level& level) {
  const std::string_view name = entry.d_name;
  if (name == "." || name == "..") {
    return {};
  }
  // A file that is a mount point is busy; of what is mounted on it nothing is touched.
  if (entry.d_type != DT_DIR && unlinkat(dir.get(), entry.d_name, 0) == 0) {
    return {};
  }
  if (entry.d_type != DT_DIR && errno != EISDIR) {
    return SysError(fmt::format("unlink {}", name));
  }
  level.directories.emplace_back(name);
  return {};
}

Result<TreeWalk::Level> TreeWalk::Enter(FdRef dir, const std::string& name) {
  WV_TRY(const struct stat info, Fstat(dir));
  Level level = {.name = name, .device = info.st_dev, .inode = info.st_ino, .directories = {}};
  WV_TRY(UniqueFd copy, OpenAt(dir, ".", O_RDONLY | O_DIRECTORY));
  const std::unique_ptr<DIR, CloseDirectory> entries(fdopendir(copy.get()));
  if (entries == nullptr) {
    return SysError("list " + name);
  }
  static_cast<void>(copy.Release());
  for (;;) {
    errno = 0;
    const dirent* entry =
        readdir(entries.get());  // NOLINT(concurrency-mt-unsafe): a DIR of our own
    if (entry == nullptr && errno != 0) {
      return SysError("list " + name);
    }
    if (entry == nullptr) {
      return level;
    }
    WV_TRY_VOID(RemoveEntry(dir, *entry, level));
  }
}

Result<> TreeWalk::Empty(UniqueFd top) {
  UniqueFd dir = std::move(top);
  std::vector<Level> levels;
  WV_TRY(Level first, Enter(dir, "it"));
  levels.push_back(std::move(first));
  for (;;) {
    if (!levels.back().directories.empty()) {
      const std::string name = std::move(levels.back().directories.back());
      levels.back().directories.pop_back();
      WV_TRY(dir, OpenOnSameMount(dir, name));
      WV_TRY(Level level, Enter(dir, name));
      levels.push_back(std::move(level));
      continue;
    }
    const std::string name = std::move(levels.back().name);
    levels.pop_back();
    if (levels.empty()) {
      return {};
    }
    WV_TRY(dir, OpenOnSameMount(dir, ".."));
    WV_TRY(const struct stat info, Fstat(dir));
    if (info.st_dev != levels.back().device || info.st_ino != levels.back().inode) {
      return Fail(Code::kAborted, name + " was moved meanwhile");
    }
    if (unlinkat(dir.get(), name.c_str(), AT_REMOVEDIR) != 0) {
      return SysError("remove directory " + name);
    }
  }
}

Result<> RemoveResolved(const std::string& path) {
  const size_t slash = path.rfind('/') + 1;
  const std::string name = path.substr(slash);
  WV_TRY(const UniqueFd parent, Open(path.substr(0, slash), O_PATH | O_DIRECTORY));
  WV_TRY(UniqueFd top, OpenOnSameMount(parent, name));
  WV_TRY_VOID(TreeWalk::Empty(std::move(top)));
  if (unlinkat(parent.get(), name.c_str(), AT_REMOVEDIR) != 0) {
    return SysError("remove directory " + name);
  }
  return {};
}

}  // namespace

Result<> RemoveTree(const std::string& path) {
  const auto resolved = ResolveParent(path);
  struct stat info = {};
  if (resolved.has_value() ? lstat(resolved->c_str(), &info) != 0 && errno == ENOENT
                           : resolved.error().code() == Code::kNotFound) {
    return {};
  }
  // All of it at first: what a refusal leaves should be whole. The walk itself crosses into no mount either.
  WV_TRY(const std::vector<std::string> mounts, MountsBelow(path));
  if (!mounts.empty()) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("{} is not removed: something is mounted on {}", path, mounts.front()));
  }
  WV_TRY_VOID_CONTEXT(RemoveResolved(*resolved), "remove " + path);
  return {};
}

}  // namespace wyvern::runtime
