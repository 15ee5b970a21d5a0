#include "volume/host_volume.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "storage/mount_info.h"

namespace wyvern::runtime {
namespace {

constexpr std::string_view kEmptyDir = "/kubernetes.io~empty-dir/";
constexpr std::string_view kSubPaths = "/volume-subpaths/";
constexpr std::array<std::string_view, 4> kOfFiles = {
    "/volumes/kubernetes.io~configmap/", "/volumes/kubernetes.io~secret/",
    "/volumes/kubernetes.io~projected/", "/volumes/kubernetes.io~downward-api/"};

// "<…>/kubernetes.io~secret/<name>", not what is below.
bool IsVolumeOfFiles(const std::string& source) {
  return std::ranges::any_of(kOfFiles, [&](std::string_view plugin) {
    const size_t at = source.find(plugin);
    if (at == std::string::npos) {
      return false;
    }
    const std::string_view name = std::string_view(source).substr(at + plugin.size());
    return !name.empty() && name.find('/') == std::string_view::npos && name != "." && name != "..";
  });
}

bool IsEmptyDir(const std::string& path) {
  return path.find(kEmptyDir) != std::string::npos;
}

std::optional<FileOwner> OwnerOf(const std::string& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return std::nullopt;
  }
  return FileOwner{info.st_mode & 07777U, info.st_uid, info.st_gid};
}

// The mount whose root is at `source`; 0: it is no mount.
uint64_t MountAt(const std::string& source) {
  struct statx info = {};
  if (statx(AT_FDCWD, source.c_str(), AT_NO_AUTOMOUNT, STATX_MNT_ID, &info) != 0 ||
      (info.stx_mask & STATX_MNT_ID) == 0 || (info.stx_attributes & STATX_ATTR_MOUNT_ROOT) == 0) {
    return 0;
  }
  return info.stx_mnt_id;
}

// An emptyDir that is a file system of its own, whether the source is all of it or, for a subPath, a directory in it.
HostVolume LookAtMounted(const std::string& source, uint64_t id) {
  const auto mounts = ReadMountInfo().value_or(std::vector<MountInfo>());
  const auto mount = std::ranges::find(mounts, id, &MountInfo::id);
  if (mount == mounts.end() || (mount->type != "tmpfs" && mount->type != "hugetlbfs")) {
    return {};
  }
  const auto volume = std::ranges::find_if(mounts, [&](const MountInfo& other) {
    return other.device == mount->device && other.root == "/" && IsEmptyDir(other.point);
  });
  const bool whole = mount->root == "/";
  if (volume == mounts.end() || (whole && volume->id != id)) {
    return {};
  }
  struct statfs info = {};
  const auto owner = OwnerOf(source);
  const auto top = OwnerOf(volume->point);
  if (!owner.has_value() || !top.has_value() || statfs(source.c_str(), &info) != 0) {
    return {};  // of a file, or just going
  }
  HostVolume out;
  out.kind = mount->type == "tmpfs" ? HostVolume::Kind::kMemory : HostVolume::Kind::kHugePages;
  out.key = mount->device + " " + volume->point;
  out.part = whole ? "" : mount->root.substr(1);
  out.bytes = static_cast<uint64_t>(info.f_blocks) * static_cast<uint64_t>(info.f_bsize);
  out.page_bytes = static_cast<uint64_t>(info.f_bsize);
  out.owner = *owner;
  out.top = *top;
  return out;
}

}  // namespace

HostVolume LookAtVolume(const std::string& source) {
  if (IsVolumeOfFiles(source)) {
    HostVolume out;
    out.kind = HostVolume::Kind::kFiles;
    return out;
  }
  if (!IsEmptyDir(source) && source.find(kSubPaths) == std::string::npos) {
    return {};
  }
  const uint64_t id = MountAt(source);
  return id == 0 ? HostVolume() : LookAtMounted(source, id);
}

}  // namespace wyvern::runtime
