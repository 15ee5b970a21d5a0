// storage/mount_info.h — what is mounted in this mount namespace (proc_pid_mountinfo(5)).
// Errors:  those of reading the file; lines that are not as the manual says are left out.
// Threads: any.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace wyvern::runtime {

struct MountInfo {
  uint64_t id = 0;     // statx: stx_mnt_id
  std::string device;  // "0:45"
  std::string root;    // which directory of the file system it shows
  std::string point;   // where
  std::string type;    // "tmpfs"
};

// In mount order. Names are unescaped.
std::vector<MountInfo> ParseMountInfo(std::string_view text);
Result<std::vector<MountInfo>> ReadMountInfo();

}  // namespace wyvern::runtime
