#include "balloon/balloon_stats.h"

#include <algorithm>
#include <cstring>

#include "base/endian.h"

namespace wyvern::devices {

namespace {

// struct virtio_balloon_stat: packed.
struct WireStat {
  Le16 tag;
  Le64 value;
};

static_assert(sizeof(WireStat) == 10);

constexpr size_t kMaxStats = kMaxStatBytes / sizeof(WireStat);

}  // namespace

const char* BalloonTagName(BalloonTag tag) {
  static constexpr std::array<const char*, BalloonStats::kTags> kNames = {
      "swap_in",       "swap_out",     "major_faults", "minor_faults",      "free",
      "total",         "available",    "caches",       "hugetlb_allocated", "hugetlb_failed",
      "oom_kills",     "alloc_stalls", "async_scan",   "direct_scan",       "async_reclaim",
      "direct_reclaim"};
  const auto index = static_cast<size_t>(tag);
  return index < kNames.size() ? kNames[index] : "unknown";
}

ParsedStats ParseStats(const virtio::Chain& chain) {
  ParsedStats parsed;
  std::array<WireStat, kMaxStats> wire;
  const size_t length = chain.readable_length();
  const size_t count = std::min(length / sizeof(WireStat), kMaxStats);
  parsed.ignored = length > count * sizeof(WireStat) ? 1 : 0;
  if (!chain.Read(0, std::as_writable_bytes(std::span(wire).first(count)))) {
    return parsed;
  }
  for (const WireStat& stat : std::span(wire).first(count)) {
    const uint16_t tag = stat.tag;
    if (tag < BalloonStats::kTags) {
      parsed.values[tag] = stat.value.value();
    } else {
      ++parsed.ignored;
    }
  }
  return parsed;
}

}  // namespace wyvern::devices
