// container/shared_exports.h — exports that several containers of a sandbox have: one of each source, so that the guest has one inode of each file.
// Why:     a unix socket or FIFO in a volume is found by the inode; through another export it would be another's, and nobody would answer.
// Shape:   an export is the same for mounts of the same file or directory of the host, as it is at that time, with the same policy.
// Life:    it is attached by its first container, which names it, and is the matter of the last one to detach.
// Threads: any; one attaches while others wait.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <tuple>

#include "base/error.h"
#include "oci/spec.h"

namespace wyvern::runtime {

class SharedExports {
 public:
  // The name of the export that serves `item`; `attach` makes one called item.name, if there is none yet.
  Result<std::string> Acquire(const oci::Export& item, const std::function<Result<>()>& attach);
  // As often as Acquire has returned it. True: nobody has it any more, the caller detaches it.
  bool Release(const std::string& name);

 private:
  // Mount, device and inode; read-only, recursive, following; mapped ids, recursively.
  using Key = std::tuple<uint64_t, dev_t, ino_t, bool, bool, bool, IdMap, bool>;

  struct Shared {
    std::string name;
    uint32_t users = 0;
  };

  std::mutex mu_;  // held while one is attached
  std::map<Key, Shared> exports_;
};

}  // namespace wyvern::runtime
