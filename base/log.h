// base/log.h — one line per event on stderr: "2026-01-02T03:04:05.678Z INFO shim ns=k8s.io sandbox=ab12 container=c1: text".
// Threads: any. Trust: bytes of other parties in the text and in fields are escaped (control
//          characters become \xNN), so that a guest cannot forge lines; fields come before the
//          text, so that a text cannot forge them.
// Loss:    a line that a full pipe or a gone reader does not take is dropped and counted; how many
//          is said with the next line that passes.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace wyvern {

enum class LogLevel : uint8_t { kDebug = 0, kInfo = 1, kWarn = 2, kError = 3 };

// Who speaks ("shim", "vmm", "agent"); call once at start, before threads. The default is the
// program's name.
void SetLogComponent(std::string component);
void SetLogLevel(LogLevel level);
LogLevel GetLogLevel();
// "debug", "info", "warn", "error"; nothing else is a level.
std::optional<LogLevel> ParseLogLevel(std::string_view name);
std::string_view LogLevelName(LogLevel level);
// Writes one line with a single write(2) to fd 2; never blocks on a full non-blocking pipe.
void LogLine(LogLevel level, std::string_view text);

struct LogField {
  std::string name;  // [a-z_]+
  std::string value;
};

// Of every line: which sandbox speaks. Call once at start, before threads.
void SetLogFields(std::vector<LogField> fields);

// A field of the lines that its thread writes as long as it lives, behind the others. Scopes end in
// the reverse order of their beginning.
class LogScope {
 public:
  LogScope(std::string name, std::string value);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;
};

// A line as a second place gets it, beside fd 2. Nothing in it has control characters.
struct LogRecord {
  LogLevel level;
  std::string_view component;
  std::span<const LogField> fields;
  std::string_view text;
};

// `sink` must not block and not log; any thread, also several at once. Once in a process.
void SetLogSink(void (*sink)(const LogRecord& record));
// Lines that fd 2 did not take.
uint64_t DroppedLogLines();

// At most `burst` lines per `period`; what is dropped is counted and said with the next line that
// passes. One object per message site.
class LogLimiter {
 public:
  explicit LogLimiter(uint32_t burst = 5,
                      std::chrono::milliseconds period = std::chrono::seconds(10));
  // True when the line may be written; `*suppressed` is then the number of lines dropped since the
  // last one.
  bool Allow(uint64_t* suppressed);

 private:
  const uint32_t burst_;
  const std::chrono::milliseconds period_;
  std::atomic<int64_t> window_start_ms_{0};
  std::atomic<uint32_t> used_{0};
  std::atomic<uint64_t> suppressed_{0};
};

}  // namespace wyvern

#define WV_LOG_AT(level, ...)                                 \
  do {                                                        \
    if ((level) >= ::wyvern::GetLogLevel()) {                 \
      ::wyvern::LogLine((level), ::fmt::format(__VA_ARGS__)); \
    }                                                         \
  } while (false)
// WV_INFO("started {} in {} ms", id, ms)
#define WV_DEBUG(...) WV_LOG_AT(::wyvern::LogLevel::kDebug, __VA_ARGS__)
#define WV_INFO(...) WV_LOG_AT(::wyvern::LogLevel::kInfo, __VA_ARGS__)
#define WV_WARN(...) WV_LOG_AT(::wyvern::LogLevel::kWarn, __VA_ARGS__)
#define WV_ERROR(...) WV_LOG_AT(::wyvern::LogLevel::kError, __VA_ARGS__)
// For what a guest or client can cause at will.
#define WV_WARN_LIMITED(...)                                                           \
  do {                                                                                 \
    static ::wyvern::LogLimiter wv_limiter;                                            \
    uint64_t wv_suppressed = 0;                                                        \
    if (::wyvern::LogLevel::kWarn >= ::wyvern::GetLogLevel() &&                        \
        wv_limiter.Allow(&wv_suppressed)) {                                            \
      ::wyvern::LogLine(::wyvern::LogLevel::kWarn, ::fmt::format(__VA_ARGS__));        \
      if (wv_suppressed > 0) {                                                         \
        ::wyvern::LogLine(::wyvern::LogLevel::kWarn,                                   \
                          ::fmt::format("({} such lines suppressed)", wv_suppressed)); \
      }                                                                                \
    }                                                                                  \
  } while (false)
