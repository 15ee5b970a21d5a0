#include "storage/exports.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/cleanup.h"
#include "storage/rootfs.h"

namespace wyvern::runtime {
namespace {

Result<> CheckName(const std::string& name) {
  if (name.empty() || name.size() > 63 ||
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_") != std::string::npos) {
    return Fail(Code::kInvalidArgument, "export name '" + name + "'");
  }
  return {};
}

Result<> Enter(FdRef mount_namespace) {
  // On OnPrivateThread's thread: root and working directory become those of the namespace.
  if (setns(mount_namespace.get(), CLONE_NEWNS) != 0) {
    return SysError("setns to the file server's mount namespace");
  }
  return {};
}

Result<> MakeMountPoint(const std::string& path, bool directory) {
  if (directory) {
    if (mkdir(path.c_str(), 0700) != 0) {
      return SysError("mkdir " + path + " in the share");
    }
    return {};
  }
  const UniqueFd fd(open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) {
    return SysError("create " + path + " in the share");
  }
  return {};
}

void RemoveMountPoint(const std::string& path) {
  if (rmdir(path.c_str()) != 0) {
    unlink(path.c_str());
  }
}

}  // namespace

Result<> MapIds(FdRef tree, FdRef user_namespace, bool recursively, const std::string& source) {
  mount_attr attributes = {};
  attributes.attr_set = MOUNT_ATTR_IDMAP;
  attributes.userns_fd = static_cast<uint64_t>(user_namespace.get());
  const unsigned flags = AT_EMPTY_PATH | (recursively ? static_cast<unsigned>(AT_RECURSIVE) : 0U);
  if (mount_setattr(tree.get(), "", flags, &attributes, sizeof(attributes)) == 0) {
    return {};
  }
  if (errno == EINVAL || errno == EPERM) {
    return Fail(
        Code::kFailedPrecondition,
        fmt::format("{}: its ids cannot be mapped: the host's kernel has no id-mapped mounts "
                    "of its file system{}, or it is id-mapped already",
                    source, recursively ? ", or of one mounted below" : ""));
  }
  return SysError("mount_setattr (id map) " + source);
}

Result<UniqueFd> CloneTree(const std::string& source, const TreeOptions& options) {
  const unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC |
                         (options.recursive ? static_cast<unsigned>(AT_RECURSIVE) : 0U);
  UniqueFd tree(open_tree(AT_FDCWD, source.c_str(), flags));
  if (!tree.valid()) {
    return SysError("open_tree " + source);
  }
  mount_attr attributes = {};
  attributes.propagation = options.follow_host_mounts ? MS_SLAVE : MS_PRIVATE;
  if (options.read_only) {
    attributes.attr_set |= MOUNT_ATTR_RDONLY;
  }
  if (options.for_guest) {
    // The guest's kernel executes what it has read; whether a file is executable the file server sees by its mode.
    attributes.attr_set |= MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
  }
  if (mount_setattr(tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                    sizeof(attributes)) != 0) {
    return SysError("mount_setattr " + source);
  }
  if (!options.ids.empty()) {
    WV_TRY(const UniqueFd user_namespace, MakeUserNamespace(options.ids));
    WV_TRY_VOID(MapIds(tree, user_namespace, options.map_recursively, source));
  }
  return tree;
}

Result<> AttachTree(FdRef mount_namespace, FdRef tree, const std::string& name) {
  WV_TRY_VOID(CheckName(name));
  WV_TRY(const struct stat info, Fstat(tree));
  const std::string path = "/" + name;
  return OnPrivateThread([&]() -> Result<> {
    WV_TRY_VOID(Enter(mount_namespace));
    WV_TRY_VOID(MakeMountPoint(path, S_ISDIR(info.st_mode)));
    Cleanup remove([&] { RemoveMountPoint(path); });
    if (move_mount(tree.get(), "", AT_FDCWD, path.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
      return SysError("move_mount to " + path + " in the share");
    }
    remove.Cancel();
    return {};
  });
}

Result<> DetachTree(FdRef mount_namespace, const std::string& name) {
  WV_TRY_VOID(CheckName(name));
  const std::string path = "/" + name;
  return OnPrivateThread([&]() -> Result<> {
    WV_TRY_VOID(Enter(mount_namespace));
    while (umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
    }
    if (errno != EINVAL && errno != ENOENT) {
      return SysError("unmount " + path + " in the share");
    }
    RemoveMountPoint(path);
    return {};
  });
}

}  // namespace wyvern::runtime
