// base/cache_reclaim.h — gives the idle page cache of a control group back, a part at a time, for as long as nobody misses it.
// Spec:    Linux Documentation/admin-guide/cgroup-v2.rst: memory.stat, memory.reclaim (Linux 5.19; its swappiness= came with 6.9),
//          memory.pressure; Documentation/accounting/psi.rst.
// Shape:   a round looks at what the group has and what it has waited for since the last round, and asks the kernel for half of what is
//          idle, in pieces. Who needs memory back shows by two things: tasks that wait for memory (PSI), and pages that are read again soon
//          after they went (refaults). Either is answered by rounds that take nothing, twice as many each time.
// Never:   anonymous memory. Where the kernel cannot be told so (before 6.9) and there is swap, nothing is taken.
// Units:   bytes; µs of waiting.
// Threads: one. Round blocks while the kernel reclaims one piece: not for an event loop.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/error.h"

namespace wyvern {

// Of one group and those below it.
struct CacheFigures {
  uint64_t file = 0;       // page cache of files; not that of tmpfs and memfds, which is no cache
  uint64_t unwritten = 0;  // of it: dirty or on its way to the disk, which no reclaim can take
  uint64_t refaulted = 0;  // that came back soon after it went; only ever grows
  std::optional<uint64_t>
      stalled_us;  // that some task waited for memory; only ever grows; unset: no PSI
};

// `stat`, `pressure`: the texts of memory.stat and memory.pressure (empty: not there). Lines that are not known are passed over.
CacheFigures ParseCacheFigures(const std::string& stat, const std::string& pressure);

// How much to take next. No system call: for tests, too.
class CachePace {
 public:
  using Time = std::chrono::steady_clock::time_point;

  static constexpr std::chrono::seconds kPeriod{5};  // between rounds, at best
  // Left alone: programs that run, and what any activity reads first.
  static constexpr uint64_t kKept = 16ULL << 20U;
  static constexpr uint32_t kMostPauses = 12;  // rounds: a minute

  // Bytes to reclaim, 0 for none.
  uint64_t Next(const CacheFigures& now, Time at);

 private:
  bool Missed(const CacheFigures& now, Time at) const;

  std::optional<CacheFigures> last_;
  Time last_at_;
  uint64_t taken_ = 0;   // by the last round
  uint32_t pauses_ = 0;  // as many as the last time it was missed
  uint32_t left_ = 0;    // of them
  uint32_t calm_ = 0;    // rounds that took and were not missed, one after the other
};

class CacheReclaim {
 public:
  // One write; small, since who removes the group waits for it.
  static constexpr uint64_t kPiece = 16ULL << 20U;

  // `directory`: of the group, with the memory controller. `swaps`: where the kernel lists them.
  explicit CacheReclaim(std::string directory, std::string swaps = "/proc/swaps")
      : directory_(std::move(directory)), swaps_(std::move(swaps)) {}

  // Bytes that were asked for; the kernel may have found less. `stop` is asked between pieces. NOT_FOUND: the group is gone.
  // UNIMPLEMENTED: this kernel cannot take file pages only, and never will.
  Result<uint64_t> Round(CachePace::Time at, const std::function<bool()>& stop);

 private:
  Result<> CheckNoSwap() const;
  // False: the kernel found less than that.
  Result<bool> Take(uint64_t bytes);

  const std::string directory_;
  const std::string swaps_;
  CachePace pace_;
  bool plain_ = false;  // the kernel knows no swappiness=
};

}  // namespace wyvern
