// observe/host_process.h — what a process of the host uses, from its /proc.
// Spec:    proc(5): smaps_rollup, stat (fields 14, 15), io (rchar, wchar).
// Cost:    smaps_rollup walks the process's page tables: about 5 ms for each GiB that is mapped in 4 KiB pages.
// Threads: any; it blocks for that long.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "observe/observation.h"

namespace wyvern::observe {

// NOT_FOUND: no such process, or it has ended and was not waited for. A file that cannot be read (io of another user's, without CAP_SYS_PTRACE)
// leaves its figures out. `proc`: for tests.
Result<ProcessUsage> ReadProcessUsage(pid_t pid, const std::string& proc = "/proc");

// Bytes behind "Pss:" and so on; 0: not there.
uint64_t KilobytesOf(std::string_view text, std::string_view name);
// Processor time in a /proc/<pid>/stat, in clock ticks; 0 if it is not one. The name in it may be any bytes.
uint64_t TicksOf(std::string_view stat);

}  // namespace wyvern::observe
