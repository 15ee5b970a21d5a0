// SETUPMAPPING, REMOVEMAPPING: parts of files in the DAX window.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "fs/file_server.h"

namespace wyvern::fs {

// By the node: Linux sends no file handle (fh is all ones). The guest's kernel has checked who may
// write; here only what the share allows counts.
FsResult<size_t> FileServer::SetUpMapping(FuseCall& call) {
  if (!dax_.active()) {
    return FsError(ENOSYS);
  }
  FS_TRY(const auto args, call.Take<fuse_setupmapping_in>());
  FS_TRY_VOID(dax_.Check(args));
  const uint64_t node = call.header().nodeid;
  FS_TRY(const InodeRef inode, inodes_.Find(node));
  const bool writable = (args.flags & FUSE_SETUPMAPPING_FLAG_WRITE) != 0;
  FS_TRY(const UniqueFd file, OpenRegular(inode, writable ? O_RDWR : O_RDONLY, false));
  FS_TRY_VOID(dax_.Map(node, inode->share.get(), file, args));
  // Forgotten or detached meanwhile: whoever did that may have looked too early.
  if (const auto still = inodes_.Find(node); !still) {
    dax_.DropNode(node);
    return tl::unexpected(still.error());
  }
  return 0;
}

FsResult<size_t> FileServer::RemoveMapping(FuseCall& call) {
  if (!dax_.active()) {
    return FsError(ENOSYS);
  }
  FS_TRY(const auto args, call.Take<fuse_removemapping_in>());
  FsResult<size_t> result = 0;
  for (uint32_t i = 0; i < args.count; ++i) {
    FS_TRY(const auto one, call.Take<fuse_removemapping_one>());
    if (const auto removed = dax_.Unmap(one.moffset, one.len); !removed) {
      result = tl::unexpected(removed.error());  // the others go all the same
    }
  }
  return result;
}

}  // namespace wyvern::fs
