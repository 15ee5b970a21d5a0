#include "storage/rootfs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/user_namespace.h"
#include "storage/exports.h"
#include "storage/loop.h"

namespace wyvern::runtime {
namespace {

// mount(2) copies one page of options at most, with its terminating zero.
constexpr size_t kMaxData = 4095;

Result<> Mount(const std::string& source, const std::string& target, const std::string& type,
               unsigned long flags, const std::string& data) {
  if (data.size() > kMaxData) {
    return Fail(Code::kResourceExhausted,
                fmt::format("mount {}: {} bytes of options, the kernel takes {}", type, data.size(),
                            kMaxData));
  }
  if (mount(source.c_str(), target.c_str(), type.empty() ? nullptr : type.c_str(), flags,
            data.empty() ? nullptr : data.c_str()) != 0) {
    return SysError(fmt::format("mount {} {}", type.empty() ? "bind" : type, source));
  }
  return {};
}

// Opens a layer and appends its descriptor's number to `names`.
Result<UniqueFd> OpenLayer(const std::string& path) {
  WV_TRY_CONTEXT(UniqueFd fd, Open(path, O_PATH | O_DIRECTORY), "overlay layer");
  return fd;
}

// Of uidmap= and gidmap=; not valid: neither is there.
Result<UniqueFd> IdsOf(const ParsedOptions& options) {
  if (options.users.empty() && options.groups.empty()) {
    return UniqueFd();
  }
  IdMap ids;
  WV_TRY_CONTEXT(ids.users, ParseIdRanges(options.users), "uidmap");
  WV_TRY_CONTEXT(ids.groups, ParseIdRanges(options.groups), "gidmap");
  return MakeUserNamespace(ids);
}

Result<> MoveTo(FdRef tree, const std::string& target) {
  if (move_mount(tree.get(), "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return SysError("move_mount to " + target);
  }
  return {};
}

Result<UniqueFd> Detached(const std::string& path) {
  UniqueFd tree(open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!tree.valid()) {
    return SysError("open_tree " + path);
  }
  return tree;
}

// A layer whose ids are mapped: a mount of its own. Before Linux 6.15 an overlay takes only mounts that are somewhere, so it is put where the
// overlay will be, upon the layers before it, which are reached by their descriptors all the same.
Result<UniqueFd> OpenMappedLayer(const std::string& path, FdRef ids, const std::string& target) {
  WV_TRY_CONTEXT(UniqueFd tree, Detached(path), "overlay layer");
  mount_attr attributes = {};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  attributes.propagation = MS_PRIVATE;
  if (mount_setattr(tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) != 0) {
    return SysError("mount_setattr " + path);
  }
  WV_TRY_VOID(MapIds(tree, ids, /*recursively=*/false, path));
  WV_TRY_VOID(MoveTo(tree, target));
  return tree;
}

// Removes `count` mounts from `target`, and puts `tree` there instead.
Result<> Replace(const std::string& target, size_t count, FdRef tree) {
  for (size_t i = 0; i < count; ++i) {
    if (umount2(target.c_str(), UMOUNT_NOFOLLOW | MNT_DETACH) != 0) {
      return SysError("unmount " + target);
    }
  }
  return MoveTo(tree, target);
}

// What is not an overlay, mounted at `target`: its ids.
Result<> MapMounted(const std::string& target, const ParsedOptions& options) {
  WV_TRY(const UniqueFd ids, IdsOf(options));
  if (!ids.valid()) {
    return {};
  }
  WV_TRY(const UniqueFd tree, Detached(target));
  WV_TRY_VOID(MapIds(tree, ids, /*recursively=*/false, target));
  return Replace(target, 1, tree);
}

Result<> MountOverlay(const MountEntry& entry, const std::string& target,
                      const ParsedOptions& options) {
  std::vector<UniqueFd> held;
  std::string data = options.data;
  const auto append = [&](const std::string& text) { data += (data.empty() ? "" : ",") + text; };
  std::string lower;
  WV_TRY(const UniqueFd ids, IdsOf(options));
  for (const std::string& path : options.lower_dirs) {
    WV_TRY(UniqueFd fd, ids.valid() ? OpenMappedLayer(path, ids, target) : OpenLayer(path));
    lower += fmt::format("{}{}", lower.empty() ? "" : ":", fd.get());
    held.push_back(std::move(fd));
  }
  if (lower.empty()) {
    return Fail(Code::kInvalidArgument, "mount overlay: no lowerdir");
  }
  append("lowerdir=" + lower);
  for (const auto& [name, path] :
       {std::pair("upperdir", options.upper_dir), std::pair("workdir", options.work_dir)}) {
    if (!path.empty()) {
      WV_TRY(UniqueFd fd, OpenLayer(path));
      append(fmt::format("{}={}", name, fd.get()));
      held.push_back(std::move(fd));
    }
  }
  WV_TRY_VOID(OnPrivateThread([&]() -> Result<> {
    // The target may be relative to nothing but the root: it is absolute.
    if (chdir("/proc/self/fd") != 0) {
      return SysError("chdir /proc/self/fd");
    }
    return Mount(entry.source.empty() ? "overlay" : entry.source, target, "overlay", options.flags,
                 data);
  }));
  if (!ids.valid()) {
    return {};
  }
  WV_TRY(const UniqueFd overlay, Detached(target));
  return Replace(target, options.lower_dirs.size() + 1, overlay);  // it keeps the layers' mounts
}

Result<> MountBind(const MountEntry& entry, const std::string& target,
                   const ParsedOptions& options) {
  if (access(entry.source.c_str(), F_OK) != 0) {
    return SysError("bind mount source " + entry.source);
  }
  WV_TRY_VOID(Mount(entry.source, target, "", MS_BIND | (options.flags & MS_REC), ""));
  // A bind of a shared mount is its peer: unmounting what is below the one would unmount it below the source, too.
  WV_TRY_VOID(Mount("none", target, "", MS_PRIVATE | MS_REC, ""));
  const unsigned long extra =
      options.flags & ~static_cast<unsigned long>(MS_BIND | MS_REC | MS_REMOUNT);
  if (extra == 0) {
    return {};
  }
  return Mount("none", target, "", MS_REMOUNT | MS_BIND | extra, "");
}

Result<> MountDevice(const MountEntry& entry, const std::string& target,
                     const ParsedOptions& options) {
  if (!options.loop) {
    return Mount(entry.source, target, entry.type, options.flags, options.data);
  }
  WV_TRY(const LoopDevice loop, LoopDevice::Attach(entry.source, (options.flags & MS_RDONLY) != 0));
  // Autoclear: the device lives as long as the mount.
  return Mount(loop.path(), target, entry.type, options.flags, options.data);
}

Result<> MountOne(const MountEntry& entry, const std::string& target) {
  const bool overlay = entry.type == "overlay";
  const ParsedOptions options = ParseMountOptions(entry.options, overlay);
  if (entry.type == "bind" || (options.flags & MS_BIND) != 0) {
    WV_TRY_VOID(MountBind(entry, target, options));
  } else if (overlay) {
    WV_TRY_VOID(MountOverlay(entry, target, options));
  } else {
    WV_TRY_VOID(MountDevice(entry, target, options));
  }
  if (!overlay) {
    WV_TRY_VOID(MapMounted(target, options));
  }
  if (options.propagation != 0) {
    WV_TRY_VOID(Mount("none", target, "", options.propagation, ""));
  }
  return {};
}

// A target below the root: resolved inside it, whatever symlinks an image has.
Result<UniqueFd> OpenInRoot(const std::string& root, const std::string& target) {
  WV_TRY(const UniqueFd base, Open(root, O_PATH | O_DIRECTORY));
  open_how how = {};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  UniqueFd fd(
      static_cast<int>(syscall(SYS_openat2, base.get(), target.c_str(), &how, sizeof(how))));
  if (!fd.valid()) {
    return SysError(fmt::format("mount target {} below {}", target, root));
  }
  return fd;
}

Result<std::string> PathOf(const UniqueFd& fd) {
  char path[4096];
  const ssize_t size =
      readlink(fmt::format("/proc/self/fd/{}", fd.get()).c_str(), path, sizeof(path));
  if (size < 0) {
    return SysError("readlink /proc/self/fd");
  }
  return std::string(path, static_cast<size_t>(size));
}

}  // namespace

Result<> MountRootfs(const std::vector<MountEntry>& mounts, const std::string& root,
                     const std::function<Result<>(const std::string& mount_point)>& before) {
  // mount(2) would follow a symlink here, unmounting never does.
  WV_TRY_VOID_CONTEXT(Open(root, O_PATH | O_DIRECTORY | O_NOFOLLOW), "container root");
  Cleanup undo([&] { static_cast<void>(UnmountTree(root)); });
  for (size_t i = 0; i < mounts.size(); ++i) {
    const MountEntry& entry = mounts[i];
    std::string target = root;
    if (!entry.target.empty() && entry.target != "/") {
      WV_TRY(const UniqueFd fd, OpenInRoot(root, entry.target));
      WV_TRY(target, PathOf(fd));
    }
    WV_TRY_VOID(before(target));
    WV_TRY_VOID_CONTEXT(MountOne(entry, target),
                        fmt::format("rootfs mount {} of {}", i + 1, mounts.size()));
  }
  undo.Cancel();
  return {};
}

}  // namespace wyvern::runtime
