// vhost_user/shared_regions.h — what a front-end shows its back-end of the guest's memory: regions of
// one file that follow each other in guest and file are one.
// Shape:   lists are sorted by guest address and do not overlap. A user address, which names a ring to
//          the back-end and nothing else, is the guest address at a distance: so that regions that are
//          not neighbours in our own address space can be one.
// Threads: any.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "mem/guest_memory.h"
#include "vhost_user/messages.h"

namespace wyvern::vhost_user {

// Neither is taken for the other unnoticed, nor is one that a back-end knows 0 (which some take for
// none). Guest addresses have at most 52 bits.
inline constexpr uint64_t kUserDistance = uint64_t{1} << 56U;

struct SharedRegion {
  uint64_t guest_address = 0;
  uint64_t size = 0;
  uint64_t file_offset = 0;
  dev_t device = 0;
  ino_t inode = 0;
  bool read_only = false;
  FdRef fd{-1};  // while the memory that it was made from lives

  uint64_t end() const { return guest_address + size; }

  // Of one file, which lies at the same place in the guest for both.
  bool OfSameFile(const SharedRegion& other) const;
  MemoryRegion ToWire() const;
};

// All of `memory` that has a descriptor.
Result<std::vector<SharedRegion>> SharedRegions(const mem::GuestMemory& memory,
                                                bool with_read_only);

struct SharedChanges {
  std::vector<SharedRegion> stale;  // of what the back-end has: not, or not wholly, shown any more
  std::vector<SharedRegion> kept;   // the rest of it
  std::vector<SharedRegion> missing;  // of what is to be shown: beyond what is kept
};

// What `has` lacks to be `shown`. Linear in both.
SharedChanges Compare(std::span<const SharedRegion> has, std::span<const SharedRegion> shown);

}  // namespace wyvern::vhost_user
