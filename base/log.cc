#include "base/log.h"

#include <errno.h>
#include <fmt/chrono.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

namespace wyvern {

namespace {

// The logger is the one mutable global of the process.
std::string& Component() {
  static std::string component = program_invocation_short_name;
  return component;
}

std::atomic<LogLevel> g_level{LogLevel::kInfo};
std::atomic<void (*)(const LogRecord&)> g_sink{nullptr};
std::atomic<uint64_t> g_dropped{0};
std::atomic<uint64_t> g_untold{0};  // of them, those that no line has told of yet

std::vector<LogField>& Fields() {
  static std::vector<LogField> fields;
  return fields;
}

std::vector<LogField>& ThreadFields() {
  static thread_local std::vector<LogField> fields;
  return fields;
}

// By LogLevel.
constexpr std::array<std::string_view, 4> kLevelNames = {"debug", "info", "warn", "error"};

int64_t NowMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// `word`: what would end a field is escaped, too.
void AppendEscaped(std::string_view text, bool word, fmt::memory_buffer& out) {
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f || (word && (c == ' ' || c == ':' || c == '='))) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", byte);
    } else {
      out.push_back(c);
    }
  }
}

// One write per line, so that lines of several processes do not mix; a full non-blocking pipe loses the line.
bool WriteLine(LogLevel level, std::string_view text) {
  static constexpr std::array<const char*, 4> kNames = {"DEBUG", "INFO", "WARN", "ERROR"};
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  fmt::memory_buffer line;
  fmt::format_to(std::back_inserter(line), "{:%Y-%m-%dT%H:%M:%S}.{:03}Z {} {}", utc,
                 now.tv_nsec / 1000000, kNames[static_cast<size_t>(level)], Component());
  for (const std::vector<LogField>* const fields : {&Fields(), &ThreadFields()}) {
    for (const LogField& field : *fields) {
      fmt::format_to(std::back_inserter(line), " {}=", field.name);
      AppendEscaped(field.value, true, line);
    }
  }
  line.append(std::string_view(": "));
  AppendEscaped(text, false, line);
  line.push_back('\n');
  const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  return written == static_cast<ssize_t>(line.size());
}

void SendToSink(void (*sink)(const LogRecord&), LogLevel level, std::string_view text) {
  std::vector<LogField> fields;
  for (const std::vector<LogField>* const some : {&Fields(), &ThreadFields()}) {
    for (const LogField& field : *some) {
      fmt::memory_buffer value;
      AppendEscaped(field.value, false, value);
      fields.push_back({field.name, fmt::to_string(value)});
    }
  }
  fmt::memory_buffer plain;
  AppendEscaped(text, false, plain);
  sink({level, Component(), fields, std::string_view(plain.data(), plain.size())});
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

void SetLogFields(std::vector<LogField> fields) {
  Fields() = std::move(fields);
}

LogScope::LogScope(std::string name, std::string value) {
  ThreadFields().push_back({std::move(name), std::move(value)});
}

LogScope::~LogScope() {
  ThreadFields().pop_back();
}

void SetLogSink(void (*sink)(const LogRecord& record)) {
  g_sink.store(sink, std::memory_order_release);
}

uint64_t DroppedLogLines() {
  return g_dropped.load(std::memory_order_relaxed);
}

void LogLine(LogLevel level, std::string_view text) {
  const int saved = errno;
  // How many were lost comes first, and is told once.
  if (const uint64_t untold = g_untold.exchange(0, std::memory_order_relaxed); untold > 0) {
    if (!WriteLine(LogLevel::kWarn, fmt::format("{} log lines were dropped", untold))) {
      g_untold.fetch_add(untold, std::memory_order_relaxed);
    }
  }
  if (!WriteLine(level, text)) {
    g_dropped.fetch_add(1, std::memory_order_relaxed);
    g_untold.fetch_add(1, std::memory_order_relaxed);
  }
  if (const auto sink = g_sink.load(std::memory_order_acquire); sink != nullptr) {
    SendToSink(sink, level, text);
  }
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
