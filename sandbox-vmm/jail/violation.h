// jail/violation.h — a forbidden system call is told on stderr, then the process ends.
#pragma once

#include "base/error.h"

namespace wyvern::jail {

// The exit code of a process that made a forbidden call (128 + SIGSYS).
inline constexpr int kViolationExit = 159;

// Handles SIGSYS: one line with thread, call number and arguments on fd 2, then _exit(kViolationExit). Once, before filters.
Result<> ReportViolations();

}  // namespace wyvern::jail
