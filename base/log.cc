#include "base/log.h"

#include <errno.h>
#include <fmt/chrono.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace wyvern {

namespace {

// The logger is the one mutable global of the process.
std::string& Component() {
  static std::string component = program_invocation_short_name;
  return component;
}

std::atomic<LogLevel> g_level{LogLevel::kInfo};

// By LogLevel.
constexpr std::array<std::string_view, 4> kLevelNames = {"debug", "info", "warn", "error"};

int64_t NowMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void AppendEscaped(std::string_view text, fmt::memory_buffer& out) {
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", byte);
    } else {
      out.push_back(c);
    }
  }
}

}  // namespace

void SetLogComponent(std::string component) {
  Component() = std::move(component);
}

void SetLogLevel(LogLevel level) {
  g_level.store(level, std::memory_order_relaxed);
}

LogLevel GetLogLevel() {
  return g_level.load(std::memory_order_relaxed);
}

std::optional<LogLevel> ParseLogLevel(std::string_view name) {
  const auto* const found = std::ranges::find(kLevelNames, name);
  if (found == kLevelNames.end()) {
    return std::nullopt;
  }
  return static_cast<LogLevel>(found - kLevelNames.begin());
}

std::string_view LogLevelName(LogLevel level) {
  return kLevelNames[static_cast<size_t>(level)];
}

void LogLine(LogLevel level, std::string_view text) {
  static constexpr std::array<const char*, 4> kNames = {"DEBUG", "INFO", "WARN", "ERROR"};
  const int saved = errno;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  fmt::memory_buffer line;
  fmt::format_to(std::back_inserter(line), "{:%Y-%m-%dT%H:%M:%S}.{:03}Z {} {}: ", utc,
                 now.tv_nsec / 1000000, kNames[static_cast<size_t>(level)], Component());
  AppendEscaped(text, line);
  line.push_back('\n');
  // One write per line, so that lines of several processes do not mix; a full non-blocking pipe
  // loses the line.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  errno = saved;
}

LogLimiter::LogLimiter(uint32_t burst, std::chrono::milliseconds period)
    : burst_(burst), period_(period) {}

bool LogLimiter::Allow(uint64_t* suppressed) {
  const int64_t now = NowMs();
  int64_t start = window_start_ms_.load(std::memory_order_relaxed);
  if (start == 0 || now - start >= period_.count()) {
    if (window_start_ms_.compare_exchange_strong(start, std::max<int64_t>(now, 1))) {
      used_.store(0, std::memory_order_relaxed);
    }
  }
  if (used_.fetch_add(1, std::memory_order_relaxed) >= burst_) {
    suppressed_.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  *suppressed = suppressed_.exchange(0, std::memory_order_relaxed);
  return true;
}

}  // namespace wyvern
