// fs/export.h — one shared tree: its cache policy, whether it is read-only, and whether it still is
// attached.
// Threads: immutable but for `detached`, which goes from false to true once, and what it uses.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace wyvern::fs {

struct ExportPolicy {
  std::chrono::milliseconds cache{1000};  // how long the guest may use names and attributes unasked
  bool read_only = false;
};

// How long the guest may believe a name or attributes, as FUSE's replies have it.
struct Validity {
  explicit Validity(std::chrono::milliseconds time)
      : seconds(static_cast<uint64_t>(time.count() / 1000)),
        nanoseconds(static_cast<uint32_t>(time.count() % 1000) * 1'000'000) {}

  uint64_t seconds;
  uint32_t nanoseconds;
};

// What the exports of a server share, each of them may have as much of as it leaves free: one that
// takes all it gets leaves half, two leave a third.
inline bool MayTakeOneMore(size_t limit, size_t used_by_all, size_t used_by_it) {
  return used_by_it < limit - used_by_all;
}

struct Export {
  Export(std::string export_name, ExportPolicy export_policy)
      : name(std::move(export_name)), policy(export_policy) {}

  const std::string name;
  const ExportPolicy policy;
  std::atomic<bool> detached{false};
  size_t handles = 0;   // guarded by the HandleTable
  size_t nameless = 0;  // guarded by the InodeTable
};

}  // namespace wyvern::fs
