// fs/file_identity.h — what proves that a file found by a name later, or by another server, is the
// one that was meant.
// Limits: where a file system tells no time of birth, the inode number alone: a file that got the
//          number again is then taken for the one that had it. (A file handle would say as much as
//          the time of birth does, for one system call more in the filter.)
// Threads: any.
#pragma once

#include <cstdint>
#include <optional>

#include "base/fd.h"
#include "fs/fuse_abi.h"
#include "fs/inode_table.h"

namespace wyvern::fs {

struct BirthTime {
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
  bool operator==(const BirthTime&) const = default;
};

struct FileIdentity {
  uint64_t device = 0;  // as this host numbers it
  uint64_t inode = 0;
  uint32_t file_type = 0;  // S_IFMT bits
  std::optional<BirthTime> birth{};
  bool operator==(const FileIdentity&) const = default;
};

struct Identified {
  InodeKey key;
  FileIdentity identity;
};

// Of a name in a directory, or of the descriptor itself (name empty). Follows no link.
FsResult<Identified> Identify(FdRef directory, const char* name);

// An O_PATH descriptor of what `path` leads to from the directory, through no symbolic link and not
// out of it.
FsResult<UniqueFd> OpenBeneath(FdRef directory, const char* path);

}  // namespace wyvern::fs
