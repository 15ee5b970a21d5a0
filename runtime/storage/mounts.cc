#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <thread>

#include "base/fd.h"
#include "storage/mount_info.h"
#include "storage/rootfs.h"

namespace wyvern::runtime {
namespace {

// One mount, busy or not. Gone already, or under another one that goes first: the next round will see.
Result<> UnmountOne(const std::string& point) {
  if (umount2(point.c_str(), UMOUNT_NOFOLLOW) == 0 ||
      (errno == EBUSY && umount2(point.c_str(), UMOUNT_NOFOLLOW | MNT_DETACH) == 0) ||
      errno == EINVAL || errno == ENOENT) {
    return {};
  }
  return SysError("unmount " + point);
}

}  // namespace

Result<std::string> ResolveParent(const std::string& path) {
  const size_t end = path.find_last_not_of('/') + 1;  // 0: nothing but slashes
  const size_t slash = path.substr(0, end).rfind('/');
  const size_t begin = slash == std::string::npos ? 0 : slash + 1;
  const std::string name = path.substr(begin, end - begin);
  if (end == 0 || name == "." || name == "..") {
    return Fail(Code::kInvalidArgument, "'" + path + "' does not name an entry of a directory");
  }
  const std::string parent = begin == 0 ? "." : path.substr(0, begin);
  const std::unique_ptr<char, decltype(&free)> resolved(realpath(parent.c_str(), nullptr), free);
  if (resolved == nullptr) {
    return SysError("resolve " + parent);
  }
  const std::string directory = resolved.get();
  return (directory == "/" ? "" : directory) + "/" + name;
}

Result<std::vector<std::string>> MountsBelow(const std::string& path) {
  std::vector<std::string> out;
  auto resolved = ResolveParent(path);
  if (!resolved.has_value()) {
    const int number = resolved.error().sys_errno();
    if (number == ENOENT || number == ENOTDIR) {
      return out;
    }
    return tl::unexpected(std::move(resolved).error());
  }
  const std::string& top = *resolved;
  WV_TRY(const std::vector<MountInfo> mounts, ReadMountInfo());
  for (const MountInfo& mount : mounts) {
    if (mount.point == top || mount.point.starts_with(top + "/")) {
      out.push_back(mount.point);
    }
  }
  return out;
}

Result<> UnmountTree(const std::string& path) {
  // Mounts may be stacked: each round removes what is there now.
  for (int round = 0; round < 16; ++round) {
    WV_TRY(const std::vector<std::string> points, MountsBelow(path));
    if (points.empty()) {
      return {};
    }
    for (auto it = points.rbegin(); it != points.rend(); ++it) {
      WV_TRY_VOID(UnmountOne(*it));
    }
  }
  return Fail(Code::kInternal, "mounts below " + path + " stay or keep appearing");
}

Result<> OnPrivateThread(const std::function<Result<>()>& body) {
  Result<> result;
  std::thread thread([&] {
    if (unshare(CLONE_FS) != 0) {
      result = SysError("unshare(CLONE_FS)");
      return;
    }
    result = body();
  });
  thread.join();
  return result;
}

}  // namespace wyvern::runtime
