#include "vhost_user/shared_regions.h"

#include <algorithm>

namespace wyvern::vhost_user {

namespace {

bool Holds(const SharedRegion& outer, const SharedRegion& inner) {
  return outer.OfSameFile(inner) && outer.guest_address <= inner.guest_address &&
         inner.end() <= outer.end();
}

// The part of `region` in [start, end).
SharedRegion Part(const SharedRegion& region, uint64_t start, uint64_t end) {
  SharedRegion part = region;
  part.file_offset += start - region.guest_address;
  part.guest_address = start;
  part.size = end - start;
  return part;
}

}  // namespace

bool SharedRegion::OfSameFile(const SharedRegion& other) const {
  return device == other.device && inode == other.inode && read_only == other.read_only &&
         guest_address - file_offset == other.guest_address - other.file_offset;
}

MemoryRegion SharedRegion::ToWire() const {
  return {guest_address, size, guest_address + kUserDistance, file_offset};
}

Result<std::vector<SharedRegion>> SharedRegions(const mem::GuestMemory& memory,
                                                bool with_read_only) {
  std::vector<SharedRegion> regions;
  for (const mem::RegionInfo& info : memory.regions()) {
    if (!info.fd.valid() || (info.read_only && !with_read_only)) {
      continue;
    }
    // Each region has a descriptor of its own: only the file says that two are of one.
    WV_TRY_CONTEXT(const auto file, Fstat(info.fd), "guest memory");
    const SharedRegion region{.guest_address = mem::Raw(info.start),
                              .size = info.size,
                              .file_offset = info.fd_offset,
                              .device = file.st_dev,
                              .inode = file.st_ino,
                              .read_only = info.read_only,
                              .fd = info.fd};
    if (!regions.empty() && regions.back().end() == region.guest_address &&
        regions.back().OfSameFile(region)) {
      regions.back().size += region.size;
    } else {
      regions.push_back(region);
    }
  }
  return regions;
}

SharedChanges Compare(std::span<const SharedRegion> has, std::span<const SharedRegion> shown) {
  SharedChanges changes;
  auto next = has.begin();
  for (const SharedRegion& region : shown) {
    while (next != has.end() && next->guest_address < region.guest_address) {
      changes.stale.push_back(*next++);
    }
    uint64_t from = region.guest_address;
    for (; next != has.end() && next->guest_address < region.end(); ++next) {
      if (!Holds(region, *next)) {
        changes.stale.push_back(*next);
        continue;
      }
      if (from < next->guest_address) {
        changes.missing.push_back(Part(region, from, next->guest_address));
      }
      from = next->end();
      changes.kept.push_back(*next);
    }
    if (from < region.end()) {
      changes.missing.push_back(Part(region, from, region.end()));
    }
  }
  changes.stale.insert(changes.stale.end(), next, has.end());
  return changes;
}

}  // namespace wyvern::vhost_user
