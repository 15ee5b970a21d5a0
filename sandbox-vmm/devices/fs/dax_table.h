// fs/dax_table.h — which node each range of the DAX window belongs to, so that what a node has
// mapped goes when the node goes.
// Spec:    FUSE_SETUPMAPPING, FUSE_REMOVEMAPPING of linux/fuse.h; map_alignment is 2^21.
// Shape:   the window in ranges of 2 MiB, one owner each: a fixed table, whatever the guest maps.
// Threads: any; one call of the window at a time.
// Trust:   offsets, lengths and flags are the guest's.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "fs/dax_window.h"
#include "fs/export.h"
#include "fs/fuse_abi.h"

namespace wyvern::fs {

// log2 of the alignment that INIT asks for: Linux maps ranges of just this size.
inline constexpr uint16_t kDaxAlignmentLog2 = 21;
inline constexpr uint64_t kDaxRangeBytes = uint64_t{1} << kDaxAlignmentLog2;

class DaxTable {
 public:
  // `window` may be null: nothing can be mapped then.
  explicit DaxTable(DaxWindow* window);

  bool active() const { return !owners_.empty(); }

  uint64_t window_bytes() const { return owners_.size() * kDaxRangeBytes; }

  // EINVAL: outside the window, misaligned, empty, unknown flags. EIO: the window refused.
  FsResult<> Check(const fuse_setupmapping_in& args) const;
  // Precondition: Check. Replaces what the range held.
  FsResult<> Map(uint64_t node, const Export* share, FdRef file, const fuse_setupmapping_in& args);
  // Unmaps what of the range is mapped.
  FsResult<> Unmap(uint64_t offset, uint64_t length);

  void DropNode(uint64_t node);
  void DropExport(const Export* share);
  void Clear();

  size_t mapped_ranges() const;

 private:
  struct Owner {
    uint64_t node = 0;  // 0: nothing is mapped
    const Export* share = nullptr;
  };

  void SetOwnerLocked(size_t range, Owner owner);
  // Unmaps ranges first … last - 1 of which `wanted(owner)` says so; the first failure, if any.
  template <typename Wanted>
  FsResult<> UnmapLocked(size_t first, size_t last, Wanted wanted);

  DaxWindow* const window_;
  mutable std::mutex mu_;
  std::vector<Owner> owners_;                       // size constant; elements guarded by mu_
  std::unordered_map<uint64_t, size_t> mapped_by_;  // ranges of each node that has any; guarded
};

}  // namespace wyvern::fs
