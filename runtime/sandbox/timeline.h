// sandbox/timeline.h — named spans of a start, in ns since it was asked for. Threads: any.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/plain_text.h"
#include "proto/agent.pb.h"
#include "sandbox/sandbox.h"

namespace wyvern::runtime {

class TimelineRecorder {
 public:
  using Clock = std::chrono::steady_clock;

  // Zero is when the sandbox was asked for, or now.
  explicit TimelineRecorder(std::optional<Clock::time_point> asked_at = {})
      : zero_(asked_at.value_or(Clock::now())) {
    if (asked_at.has_value()) {
      Add("shim", 0);
    }
  }

  int64_t Now() const {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - zero_).count();
  }

  // From `start_ns` until now.
  void Add(std::string name, int64_t start_ns) { Add(std::move(name), start_ns, Now()); }

  void Add(std::string name, int64_t start_ns, int64_t end_ns) {
    const std::lock_guard lock(mu_);
    // A sandbox may live for months and start many containers.
    if (points_.size() < kMaxPoints) {
      points_.push_back({std::move(name), start_ns, end_ns});
    }
  }

  // The guest's own points (CLOCK_BOOTTIME since its start) put on our clock: the last of them, "hello", is `hello_ns`.
  void AddGuest(const agent::v1::HelloResponse& hello, int64_t boot_ns, int64_t hello_ns) {
    if (hello.timeline_size() < 2 || hello.timeline_size() > 16) {
      Add("boot", boot_ns, hello_ns);
      return;
    }
    const auto at = [&](int index) {
      // Unsigned, since the numbers may be anything.
      const uint64_t behind = hello.timeline(hello.timeline_size() - 1).boottime_ns() -
                              hello.timeline(index).boottime_ns();
      return hello_ns -
             static_cast<int64_t>(std::min(behind, static_cast<uint64_t>(hello_ns - boot_ns)));
    };
    Add("kernel", boot_ns, at(0));
    for (int i = 1; i < hello.timeline_size(); ++i) {
      Add(PlainText(hello.timeline(i).name(), 32), at(i - 1), at(i));
    }
  }

  std::vector<TimelinePoint> Points() const {
    const std::lock_guard lock(mu_);
    return points_;
  }

 private:
  static constexpr size_t kMaxPoints = 64;

  const Clock::time_point zero_;
  mutable std::mutex mu_;
  std::vector<TimelinePoint> points_;
};

}  // namespace wyvern::runtime
