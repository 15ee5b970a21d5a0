// observe/event_log.h — what has happened to a sandbox: the last kKept events, and whoever wants to hear of the next.
// Bounds:  kKept events of at most kMaxEventText bytes of text. What a guest can cause any number of (OOM kills in a container) pushes older
//          events out; their numbers tell how many are gone.
// Trust:   texts may be the guest's words, and leave as printable ASCII.
// Threads: any. Listeners are called in the order of the events, on the thread that tells of one, under a lock: they do not block and do not call
//          this.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace wyvern::observe {

inline constexpr size_t kKept = 256;
inline constexpr size_t kMaxEventText = 500;

// Numbers of control.v1.SandboxEvent.Kind.
enum class EventKind : uint8_t {
  kStarted = 1,
  kExited = 2,
  kOom = 3,
  kDied = 4,
  kResized = 5,
  kHotplugFailed = 6,
};

// "started", "oom", "hotplug-failed"
const char* EventName(EventKind kind);

struct Event {
  uint64_t number = 0;  // 1, 2, …
  std::chrono::system_clock::time_point at;
  EventKind kind = EventKind::kStarted;
  std::string container;  // empty: the sandbox as a whole
  std::string text;
};

class EventLog {
 public:
  using Listener = std::function<void(const Event&)>;

  EventLog() = default;
  ~EventLog() = default;
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  void Add(EventKind kind, std::string_view container, std::string_view text);

  // Hears of what is kept, if `kept`, and of everything after that, without a gap; no more once Unsubscribe has returned.
  uint64_t Subscribe(bool kept, Listener listener);
  void Unsubscribe(uint64_t subscription);

  std::vector<Event> Kept() const;
  // How many of each kind there were, gone ones too.
  std::map<EventKind, uint64_t> Totals() const;

 private:
  mutable std::mutex mu_;  // guards what follows
  std::deque<Event> kept_;
  std::map<EventKind, uint64_t> totals_;
  std::map<uint64_t, Listener> listeners_;
  uint64_t last_ = 0;
  uint64_t last_subscription_ = 0;
};

}  // namespace wyvern::observe
