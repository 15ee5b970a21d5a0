#include "container/shared_exports.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>

namespace wyvern::runtime {

Result<std::string> SharedExports::Acquire(const oci::Export& item,
                                           const std::function<Result<>()>& attach) {
  struct statx info = {};
  if (statx(AT_FDCWD, item.source.c_str(), 0, STATX_INO | STATX_MNT_ID, &info) != 0) {
    return SysError(item.source);
  }
  const Key key{info.stx_mnt_id, makedev(info.stx_dev_major, info.stx_dev_minor),
                info.stx_ino,    item.read_only,
                item.recursive,  item.follow_host_mounts,
                item.ids,        item.map_recursively};
  const std::lock_guard lock(mu_);
  auto it = exports_.find(key);
  if (it == exports_.end()) {
    WV_TRY_VOID(attach());
    it = exports_.emplace(key, Shared{item.name, 0}).first;
  }
  ++it->second.users;
  return it->second.name;
}

bool SharedExports::Release(const std::string& name) {
  const std::lock_guard lock(mu_);
  const auto it =
      std::ranges::find_if(exports_, [&](const auto& entry) { return entry.second.name == name; });
  if (it == exports_.end() || --it->second.users > 0) {
    return false;
  }
  exports_.erase(it);
  return true;
}

}  // namespace wyvern::runtime
