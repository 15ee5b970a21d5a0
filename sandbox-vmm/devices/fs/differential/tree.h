// fs/differential/tree.h — a whole tree as text, one line per name, sorted.
// Shape:   as a Runner's lines: equal for trees that are alike.
// Threads: one.
#pragma once

#include <string>

#include "fs/differential/runner.h"

namespace wyvern::fs::differential {

std::string DescribeTree(Target& target, RunnerOptions options = {});

}  // namespace wyvern::fs::differential
