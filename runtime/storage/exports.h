// storage/exports.h — trees of the host cloned into the file server's mount namespace, and taken out again.
// How:     open_tree(OPEN_TREE_CLONE) in our namespace, mount_setattr (propagation, read-only, nodev), then a throw-away thread enters the
//          server's mount namespace and attaches the tree at /<name>. Nothing else of the host is pinned by it.
// Errors:  NOT_FOUND names the missing source. FAILED_PRECONDITION: its file system cannot map ids.
// Threads: any.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/user_namespace.h"

namespace wyvern::runtime {

struct TreeOptions {
  bool recursive = false;
  bool read_only = false;
  // Slave propagation: later mounts of the host below it appear, with the host's own flags.
  bool follow_host_mounts = false;
  // nodev, nosuid, noexec: what a guest makes in it means nothing on the host. To the guest, whose kernel decides by its own mounts, it is the
  // same.
  bool for_guest = false;
  // Ids of its files are mapped, as a container with these has them: what is 0 on the disk is who is 0 in the namespace. Empty: as they are. Of the
  // mount alone, or of all below it.
  IdMap ids = {};
  bool map_recursively = false;
};

// A detached clone of the tree at `source` (a directory or a file; symlinks are followed).
Result<UniqueFd> CloneTree(const std::string& source, const TreeOptions& options);

// Ids of the files in a detached tree, as TreeOptions::ids; `source` is for the error.
Result<> MapIds(FdRef tree, FdRef user_namespace, bool recursively, const std::string& source);

// Attaches `tree` at /<name> of the mount namespace; the mount point (directory or file, as the tree's root is) is made.
Result<> AttachTree(FdRef mount_namespace, FdRef tree, const std::string& name);
// MNT_DETACH and removal of the mount point. Idempotent.
Result<> DetachTree(FdRef mount_namespace, const std::string& name);

}  // namespace wyvern::runtime
