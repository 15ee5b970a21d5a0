// fs/differential/map_step.h — what a step does with a mapping, and what it showed.
// Threads: one.
#pragma once

#include <cstdint>
#include <string>

#include "fs/differential/target.h"

namespace wyvern::fs::differential {

inline constexpr uint64_t kPage = 4096;  // what O_DIRECT and mmap want

inline uint64_t Aligned(uint64_t value) {
  return value & ~(kPage - 1);
}

inline uint64_t AlignedUp(uint64_t value) {
  return Aligned(value + kPage - 1);
}

// One mapping, from mmap to munmap: what it shows before and after each change.
std::string RunMap(const Step& step, File& file);

}  // namespace wyvern::fs::differential
