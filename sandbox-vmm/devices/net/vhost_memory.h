// net/vhost_memory.h — guest memory as the kernel's vhost is told of it.
// Shape:   vhost takes 64 regions (its max_mem_regions), by our own addresses. Memory that is plugged
//          has a region for each chunk, at an address of its own. Where there are too many, the chunks
//          of one file are mapped a second time, each at its place in one piece of address space: one
//          region, in which what is not plugged is as inaccessible as outside of it (EFAULT).
// Cost:    each queue pair maps each chunk when it comes and unmaps it when it goes; page tables, no memory.
// Errors:  RESOURCE_EXHAUSTED: too many regions all the same. The host's, for mappings.
// Threads: one at a time.   Trust: as mem::GuestMemory.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/mapping.h"
#include "mem/guest_memory.h"

namespace wyvern::devices {

struct VhostRegion {
  uint64_t guest_address = 0;
  uint64_t size = 0;
  uint64_t host_address = 0;
};

class VhostMemory {
 public:
  static constexpr size_t kMaxRegions = 64;

  // What is to be told now. It holds until the next call; no ring may run over what is gone since the
  // last one.
  Result<std::vector<VhostRegion>> Update(const mem::GuestMemory& memory);

 private:
  // A file's place in guest memory.
  struct Place {
    dev_t device = 0;
    ino_t inode = 0;
    uint64_t start = 0;  // of its first byte

    auto operator<=>(const Place&) const = default;
  };

  struct View {
    Mapping reservation;
    std::byte* base = nullptr;  // of the file's first byte
    uint64_t size = 0;
    std::map<uint64_t, uint64_t> mapped{};  // offset to length
  };

  struct Piece {
    mem::RegionInfo region;
    View* view = nullptr;  // null: where GuestMemory has it
  };

  Result<std::vector<Piece>> Sort(std::span<const mem::RegionInfo> regions);
  static Result<View> MakeView(const Place& place, uint64_t size);
  static Result<> MapPieces(View& view, std::span<const Piece> pieces);

  std::map<Place, View> views_;
};

}  // namespace wyvern::devices
