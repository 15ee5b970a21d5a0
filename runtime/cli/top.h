// cli/top.h — what `wyvern top` shows of two looks at the sandboxes.
// Shape:   figures are those of the second look; rates are the difference by the time between. A sandbox that was not there before has none.
// Trust:   numbers of guest and VMM may be lies, and go backwards: a rate is never below 0.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/measure.h"

namespace wyvern::cli {

struct TopRow {
  std::string ns, id;
  bool answers = false;
  double pss_vmm = 0, pss_fs = 0, pss_rest = 0;  // bytes; rest: owner, anchors, keeper
  std::optional<double> used, cache, free;       // of the guest, bytes
  double balloon = 0, plugged = 0;               // bytes
  std::optional<double> cpu;                     // of the host's processes: 1 is one processor
  std::optional<double> exits, read, written;    // per second; disks and shared files, bytes
  std::optional<double> upcall;                  // mean of those since the first look, seconds
};

// `before`: none, or of the same sandbox.
TopRow RowOf(const Measured& now, const Measured* before, double seconds);

// By the time of processors, then by name; with a line of names above.
std::string TopTable(std::vector<TopRow> rows);

// Of one sandbox: exits per second by reason, the largest first, and what each device moves.
std::string TopDetails(const Measured& now, const Measured& before, double seconds);

// "0", "4.0K", "123M": three digits and a unit of 1024
std::string ShortBytes(double bytes);

}  // namespace wyvern::cli
