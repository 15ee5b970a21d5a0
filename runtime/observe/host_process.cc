#include "observe/host_process.h"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <optional>

#include "base/fd.h"

namespace wyvern::observe {

namespace {

constexpr size_t kMaxFile = 64U << 10U;

std::string ReadOrEmpty(const std::string& path) {
  return ReadFile(path, kMaxFile).value_or(std::string());
}

// The number behind "name:" at the beginning of a line.
std::optional<uint64_t> NumberOf(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!line.starts_with(name) || !line.substr(name.size()).starts_with(':')) {
      continue;
    }
    line.remove_prefix(name.size() + 1);
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    uint64_t value = 0;
    const auto [rest, error] = std::from_chars(line.data(), line.data() + line.size(), value);
    return error == std::errc() ? std::optional(value) : std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

uint64_t KilobytesOf(std::string_view text, std::string_view name) {
  const uint64_t kib = NumberOf(text, name).value_or(0);
  return kib > (UINT64_MAX >> 10U) ? 0 : kib << 10U;
}

uint64_t TicksOf(std::string_view stat) {
  // Fields are numbered from 1; the second is the name in brackets, and the last bracket of the line ends it.
  constexpr int kUserTime = 14;
  constexpr int kSystemTime = 15;
  const size_t bracket = stat.rfind(')');
  if (bracket == std::string_view::npos) {
    return 0;
  }
  stat.remove_prefix(bracket + 1);
  uint64_t ticks = 0;
  for (int field = 3; field <= kSystemTime && !stat.empty(); ++field) {
    stat.remove_prefix(std::min(stat.find_first_not_of(' '), stat.size()));
    const size_t end = std::min(stat.find(' '), stat.size());
    if (field >= kUserTime) {
      uint64_t value = 0;
      (void)std::from_chars(stat.data(), stat.data() + end, value);
      ticks += value;
    }
    stat.remove_prefix(end);
  }
  return ticks;
}

Result<ProcessUsage> ReadProcessUsage(pid_t pid, const std::string& proc) {
  const std::string directory = fmt::format("{}/{}", proc, pid);
  const auto stat = ReadFile(directory + "/stat", kMaxFile);
  if (!stat) {
    return Fail(Code::kNotFound, fmt::format("no process {}", pid));
  }
  ProcessUsage usage;
  usage.pid = pid;
  const std::string memory = ReadOrEmpty(directory + "/smaps_rollup");
  usage.pss = KilobytesOf(memory, "Pss");
  usage.rss = KilobytesOf(memory, "Rss");
  usage.swap_pss = KilobytesOf(memory, "SwapPss");
  const auto per_second = static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
  const uint64_t ticks = TicksOf(*stat);
  usage.cpu_usec = ticks / per_second * 1'000'000 + ticks % per_second * 1'000'000 / per_second;
  const std::string io = ReadOrEmpty(directory + "/io");
  usage.read_bytes = NumberOf(io, "rchar");
  usage.written_bytes = NumberOf(io, "wchar");
  return usage;
}

}  // namespace wyvern::observe
