// cli/image_store.h — the unpacked layers that runs share, <store>/layers/<digest>, and how they go again.
// Locks:   <store>/.lock, shared while a run unpacks an image and takes hold of its layers, exclusive while layers are removed. A layer's
//          directory, shared for as long as a run or its keeper lives. All are flock(2): they end with those who hold them.
// Threads: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::cli {

inline constexpr const char* kImageStore = "/var/lib/wyvern/images";

// Makes the store; waits while layers are removed. No layer goes until the descriptor is closed.
Result<UniqueFd> LockStore(const std::string& store);

// The layer stays until the descriptor and its duplicates are closed. Preconditions: the store is locked.
Result<UniqueFd> HoldLayer(const std::string& layer);

struct Pruned {
  size_t removed = 0;  // layers
  size_t in_use = 0;   // layers
  uint64_t bytes = 0;  // of disk, freed
  // Why something that nobody uses is still there, and what to do about it.
  std::vector<std::string> left;
};

// Removes the layers that nobody holds, and what runs that were killed had unpacked in part. Waits while an image is unpacked. A layer goes as a
// whole or, killed in the middle, stays under a name that the next time removes. No store: nothing to do.
Result<Pruned> PruneStore(const std::string& store);

}  // namespace wyvern::cli
