// balloon/balloon_stats.h — what a guest says of its memory.
// Spec:    VIRTIO 1.4 §5.5.6.3 (statistics), §5.5.6.4 (tags 0..9); 10..15 are Linux's of 6.11 and
//          later.
// Trust:   every tag and value is the guest's: unknown tags are ignored, of repeated ones the last
//          counts, and values are only ever shown.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "virtio/queue.h"

namespace wyvern::devices {

enum class BalloonTag : uint16_t {
  kSwapIn = 0,            // bytes
  kSwapOut = 1,           // bytes
  kMajorFaults = 2,       // count
  kMinorFaults = 3,       // count
  kFree = 4,              // bytes
  kTotal = 5,             // bytes
  kAvailable = 6,         // bytes
  kCaches = 7,            // bytes
  kHugetlbAllocated = 8,  // count
  kHugetlbFailed = 9,     // count
  kOomKills = 10,         // count
  kAllocStalls = 11,      // count
  kAsyncScan = 12,        // bytes
  kDirectScan = 13,       // bytes
  kAsyncReclaim = 14,     // bytes
  kDirectReclaim = 15,    // bytes
};

struct BalloonStats {
  static constexpr size_t kTags = 16;

  std::optional<uint64_t> value(BalloonTag tag) const { return values[static_cast<size_t>(tag)]; }

  std::array<std::optional<uint64_t>, kTags> values;
  uint64_t updates = 0;  // how often the guest has told; 0: never
  std::chrono::steady_clock::time_point at;
};

// "swap_in" and so on, for metrics; never null.
const char* BalloonTagName(BalloonTag tag);

struct ParsedStats {
  std::array<std::optional<uint64_t>, BalloonStats::kTags> values;
  uint64_t ignored = 0;  // entries with an unknown tag, and bytes that are no entry, as one
};

// At most kMaxStatBytes of the chain's readable part are looked at, however long it is (FC #5794).
inline constexpr size_t kMaxStatBytes = 640;
ParsedStats ParseStats(const virtio::Chain& chain);

}  // namespace wyvern::devices
