#include <fmt/format.h>
#include <poll.h>

#include <charconv>
#include <csignal>

#include "base/event_fd.h"
#include "base/fd.h"
#include "state/state.h"

namespace wyvern::runtime {

Result<uint64_t> ProcessStartTime(pid_t pid) {
  WV_TRY(const std::string stat, ReadFile(fmt::format("/proc/{}/stat", pid), 4096));
  // Field 2 is the name in parentheses, which may hold anything; field 3 is the state.
  const size_t end_of_name = stat.rfind(')');
  if (end_of_name == std::string::npos || end_of_name + 2 >= stat.size()) {
    return Fail(Code::kInternal, fmt::format("/proc/{}/stat: unexpected text", pid));
  }
  std::string_view rest = std::string_view(stat).substr(end_of_name + 2);
  if (rest.front() == 'Z' || rest.front() == 'X') {
    return Fail(Code::kNotFound, fmt::format("process {} has ended", pid));
  }
  for (int field = 3; field < 22; ++field) {
    const size_t space = rest.find(' ');
    if (space == std::string_view::npos) {
      return Fail(Code::kInternal, fmt::format("/proc/{}/stat: unexpected text", pid));
    }
    rest.remove_prefix(space + 1);
  }
  uint64_t start = 0;
  std::from_chars(rest.data(), rest.data() + rest.size(), start);
  return start;
}

Result<ProcessRecord> RecordProcess(std::string role, pid_t pid) {
  WV_TRY(const uint64_t start, ProcessStartTime(pid));
  return ProcessRecord{std::move(role), pid, start};
}

bool IsAlive(const ProcessRecord& process) {
  if (process.pid <= 0) {
    return false;
  }
  const auto start = ProcessStartTime(process.pid);
  return start.has_value() && *start == process.start_time;
}

Result<> KillProcess(const ProcessRecord& process) {
  if (process.pid <= 1) {
    return {};
  }
  auto pid_fd = PidFd::OpenPid(process.pid);
  // Looked at after the pidfd was opened: from here on it is the process we looked at, or none.
  if (!pid_fd.has_value() || !IsAlive(process)) {
    return {};
  }
  if (auto killed = pid_fd->Kill(SIGKILL);
      !killed.has_value() && killed.error().code() != Code::kNotFound) {
    return killed;
  }
  pollfd wait = {pid_fd->fd().get(), POLLIN, 0};
  if (poll(&wait, 1, 2000) <= 0 && IsAlive(process)) {
    return Fail(Code::kDeadlineExceeded, fmt::format("process {} ({}) does not end after SIGKILL",
                                                     process.pid, process.role));
  }
  return {};
}

}  // namespace wyvern::runtime
