// cli/timeline.h — a start's timeline as JSON: what `wyvern timeline` prints and `run --timeline` writes.
#pragma once

#include <string>
#include <vector>

#include "sandbox/sandbox.h"

namespace wyvern::cli {

// A list of {"name", "start_ns", "end_ns"}; bytes of a name that are not UTF-8 are replaced.
std::string TimelineJson(const std::vector<runtime::TimelinePoint>& points);

}  // namespace wyvern::cli
