// fs/export.h — one shared tree: its cache policy, whether it is read-only, and whether it still is
// attached.
// Threads: immutable but for `detached`, which goes from false to true once.
#pragma once

#include <atomic>
#include <chrono>
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

struct Export {
  Export(std::string export_name, ExportPolicy export_policy)
      : name(std::move(export_name)), policy(export_policy) {}

  const std::string name;
  const ExportPolicy policy;
  std::atomic<bool> detached{false};
};

}  // namespace wyvern::fs
