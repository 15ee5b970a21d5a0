// balloon/page_ranges.h — pages that a guest gives up, gathered into ranges so that the host is
// asked as seldom as can be.
// Units:   pages are 4096 bytes, whatever the guest's or the host's page size (VIRTIO 1.4 §5.5.6).
// Trust:   page numbers are the guest's: in any order, repeated, outside of memory.
#pragma once

#include <cstdint>
#include <span>

#include "mem/guest_memory.h"

namespace wyvern::devices {

inline constexpr uint64_t kBalloonPage = 4096;

struct FreedPages {
  uint64_t pages = 0;          // given back
  uint64_t refused_pages = 0;  // not RAM
  uint64_t host_calls = 0;
  uint64_t host_failures = 0;
};

// Gives [start, end) back, with one call for each region of RAM that it touches: adjacent regions
// may be in different files. Preconditions: both are multiples of 4096, start <= end.
void FreeRun(const mem::GuestMemory& memory, uint64_t start, uint64_t end, FreedPages* freed);

// Sorts `pages`, and gives each run of them back; a page that is there twice is freed once.
void FreePages(const mem::GuestMemory& memory, std::span<uint32_t> pages, FreedPages* freed);

// Whether [start, start + length) is whole pages inside ONE region of RAM.
bool IsOneRamRange(const mem::GuestMemory& memory, mem::Gpa start, uint64_t length);

}  // namespace wyvern::devices
