// storage/rootfs.h — containerd's mount list applied on <bundle>/rootfs, as every runtime does, and undone.
// Shape:   types bind, overlay, and file systems of the kernel (ext4, erofs, xfs, …); option "loop" puts a loop device under an image file.
//          Overlay layers are named by descriptor (lowerdir=10:11:…), so that 120 of them fit into the one page mount(2) takes; no limit by
//          path length, no characters to escape. Options uidmap= and gidmap= (both, or none) map the ids of an overlay's lower layers, or of a
//          bind mount, as containerd's mounts do.
// Errors:  NOT_FOUND names a missing source; INVALID_ARGUMENT an option that nobody knows.
// Threads: any; names relative to descriptors are resolved on a throw-away thread with a working directory of its own.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/error.h"

namespace wyvern::runtime {

// As in sandbox/sandbox.h, which is above this layer.
struct MountEntry {
  std::string type;
  std::string source;
  std::string target;  // below the root; usually empty
  std::vector<std::string> options;
};

struct ParsedOptions {
  unsigned long flags = 0;        // MS_*
  unsigned long propagation = 0;  // MS_PRIVATE, … and MS_REC
  std::string data;               // what the file system gets, joined by commas
  std::vector<std::string> lower_dirs;
  std::string upper_dir, work_dir;
  bool loop = false;
  std::string users, groups;  // uidmap= and gidmap=, as ParseIdRanges takes them
};

// `overlay`: lowerdir, upperdir and workdir are taken apart.
ParsedOptions ParseMountOptions(const std::vector<std::string>& options, bool overlay);

// Mounts the list in order. `before` is told each mount point before it is mounted. On error what was mounted is unmounted.
Result<> MountRootfs(const std::vector<MountEntry>& mounts, const std::string& root,
                     const std::function<Result<>(const std::string& mount_point)>& before);

// Absolute, the way there without symlinks, as mountinfo writes mount points; what `path` itself is, even a symlink, stays. NOT_FOUND: no
// such parent. INVALID_ARGUMENT: "/", or "." or ".." at the end.
Result<std::string> ResolveParent(const std::string& path);

// Unmounts everything at and below `path`, children first; busy ones lazily. Nothing mounted: success. Symlinks on the way are followed, one
// at the end never.
Result<> UnmountTree(const std::string& path);

// Mount points at and below `path` in this mount namespace, in mount order, resolved.
Result<std::vector<std::string>> MountsBelow(const std::string& path);

// Runs `body` on a thread that shares nothing of the file system view (working directory, root, mount namespace) with this process.
Result<> OnPrivateThread(const std::function<Result<>()>& body);

}  // namespace wyvern::runtime
