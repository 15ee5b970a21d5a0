#include "base/user_namespace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/cleanup.h"

namespace wyvern {
namespace {

// The last id, all ones, means "none".
constexpr uint64_t kIds = std::numeric_limits<uint32_t>::max();

Result<> CheckSide(const std::vector<IdRange>& ranges, uint32_t IdRange::*side,
                   const std::string& what) {
  std::vector<std::pair<uint64_t, uint64_t>> sorted;
  for (const IdRange& range : ranges) {
    const uint64_t first = range.*side;
    if (range.size == 0 || first + range.size > kIds) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("{}: {} ids from {} on: there are ids from 0 to {}", what, range.size,
                              first, kIds - 1));
    }
    sorted.emplace_back(first, first + range.size);
  }
  std::ranges::sort(sorted);
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].first < sorted[i - 1].second) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("{}: {} is mapped twice", what, sorted[i].first));
    }
  }
  return {};
}

Result<> CheckRanges(const std::vector<IdRange>& ranges, const std::string& what) {
  if (ranges.empty() || ranges.size() > kMaxIdRanges) {
    return Fail(Code::kInvalidArgument, fmt::format("{}: {} ranges, there must be 1 to {}", what,
                                                    ranges.size(), kMaxIdRanges));
  }
  WV_TRY_VOID(CheckSide(ranges, &IdRange::first, what + " in the namespace"));
  return CheckSide(ranges, &IdRange::outside, what + " outside");
}

Result<uint32_t> ParseId(std::string_view text) {
  uint32_t id = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), id);
  if (text.empty() || parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) {
    return Fail(Code::kInvalidArgument, fmt::format("'{}' is no id", text.substr(0, 20)));
  }
  return id;
}

// Up to the separator, which is removed, too.
std::string_view Cut(std::string_view& text, char separator) {
  const size_t end = std::min(text.find(separator), text.size());
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return word;
}

std::string MapFile(const std::vector<IdRange>& ranges) {
  std::string out;
  for (const IdRange& range : ranges) {
    out += fmt::format("{} {} {}\n", range.first, range.outside, range.size);
  }
  return out;
}

}  // namespace

Result<> CheckIdMap(const IdMap& map) {
  WV_TRY_VOID(CheckRanges(map.users, "users"));
  return CheckRanges(map.groups, "groups");
}

Result<std::vector<IdRange>> ParseIdRanges(std::string_view text) {
  std::vector<IdRange> out;
  if (std::ranges::count(text, ',') >= static_cast<ptrdiff_t>(kMaxIdRanges)) {
    return Fail(Code::kInvalidArgument, fmt::format("more than {} ranges of ids", kMaxIdRanges));
  }
  do {
    std::string_view range = Cut(text, ',');
    if (std::ranges::count(range, ':') != 2) {
      return Fail(
          Code::kInvalidArgument,
          fmt::format("'{}': a range of ids is written first:outside:size", range.substr(0, 40)));
    }
    IdRange parsed;
    WV_TRY(parsed.first, ParseId(Cut(range, ':')));
    WV_TRY(parsed.outside, ParseId(Cut(range, ':')));
    WV_TRY(parsed.size, ParseId(range));
    out.push_back(parsed);
  } while (!text.empty());
  return out;
}

std::string FormatIdRanges(const std::vector<IdRange>& ranges) {
  std::string out;
  for (const IdRange& range : ranges) {
    out +=
        fmt::format("{}{}:{}:{}", out.empty() ? "" : ",", range.first, range.outside, range.size);
  }
  return out;
}

Result<UniqueFd> MakeUserNamespace(const IdMap& map) {
  WV_TRY_VOID(CheckIdMap(map));
  const pid_t parent = getpid();
  // Without an exit signal: nobody who waits for children of the process hears of this one.
  const auto child =
      static_cast<pid_t>(syscall(SYS_clone, CLONE_NEWUSER, nullptr, nullptr, nullptr, nullptr));
  if (child < 0) {
    return SysError("making a user namespace");
  }
  if (child == 0) {
    // A copy of one thread of many: system calls only. It does not outlive who made it.
    (void)syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    while (syscall(SYS_getppid) == parent) {
      (void)syscall(SYS_ppoll, nullptr, 0, nullptr, nullptr, 0);
    }
    (void)syscall(SYS_exit_group, 0);
  }
  const Cleanup end([&] {
    (void)kill(child, SIGKILL);
    (void)waitpid(child, nullptr, __WALL);
  });
  const std::string proc = fmt::format("/proc/{}", child);
  WV_TRY_VOID(WriteFile(proc + "/uid_map", MapFile(map.users)));
  WV_TRY_VOID(WriteFile(proc + "/gid_map", MapFile(map.groups)));
  return Open(proc + "/ns/user", O_RDONLY);
}

}  // namespace wyvern
