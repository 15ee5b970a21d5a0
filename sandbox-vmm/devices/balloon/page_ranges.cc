#include "balloon/page_ranges.h"

#include <algorithm>

namespace wyvern::devices {

namespace {

uint64_t RegionEnd(const mem::RegionInfo& region) {
  return mem::Raw(region.start) + region.size;
}

// The first region that ends behind `address`.
std::span<const mem::RegionInfo> RegionsFrom(const mem::GuestMemory& memory, uint64_t address) {
  const auto regions = memory.regions();
  const auto first = std::ranges::partition_point(
      regions, [address](const mem::RegionInfo& region) { return RegionEnd(region) <= address; });
  return regions.subspan(static_cast<size_t>(first - regions.begin()));
}

}  // namespace

void FreeRun(const mem::GuestMemory& memory, uint64_t start, uint64_t end, FreedPages* freed) {
  for (const mem::RegionInfo& region : RegionsFrom(memory, start)) {
    const uint64_t from = std::max(start, mem::Raw(region.start));
    const uint64_t to = std::min(end, RegionEnd(region));
    if (from >= to) {
      break;
    }
    freed->refused_pages += (from - start) / kBalloonPage;  // the hole before this region
    const uint64_t pages = (to - from) / kBalloonPage;
    start = to;
    if (!region.guest_ram || region.read_only) {
      freed->refused_pages += pages;
      continue;
    }
    ++freed->host_calls;
    if (memory.FreeRange(mem::Gpa{from}, to - from)) {
      freed->pages += pages;
    } else {
      ++freed->host_failures;
    }
  }
  freed->refused_pages += (end - start) / kBalloonPage;
}

void FreePages(const mem::GuestMemory& memory, std::span<uint32_t> pages, FreedPages* freed) {
  std::ranges::sort(pages);
  size_t i = 0;
  while (i < pages.size()) {
    const uint64_t first = pages[i];
    uint64_t end = first + 1;
    // What follows is either the same page again or the next one.
    for (++i; i < pages.size() && pages[i] <= end; ++i) {
      end = uint64_t{pages[i]} + 1;
    }
    FreeRun(memory, first * kBalloonPage, end * kBalloonPage, freed);
  }
}

bool IsOneRamRange(const mem::GuestMemory& memory, mem::Gpa start, uint64_t length) {
  const uint64_t address = mem::Raw(start);
  if (length == 0 || address % kBalloonPage != 0 || length % kBalloonPage != 0) {
    return false;
  }
  const auto regions = RegionsFrom(memory, address);
  return !regions.empty() && regions.front().guest_ram && !regions.front().read_only &&
         mem::Raw(regions.front().start) <= address &&
         length <= RegionEnd(regions.front()) - address;
}

}  // namespace wyvern::devices
