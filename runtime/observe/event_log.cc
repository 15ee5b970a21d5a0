#include "observe/event_log.h"

#include <utility>

#include "base/plain_text.h"

namespace wyvern::observe {

const char* EventName(EventKind kind) {
  switch (kind) {
    case EventKind::kStarted:
      return "started";
    case EventKind::kExited:
      return "exited";
    case EventKind::kOom:
      return "oom";
    case EventKind::kDied:
      return "died";
    case EventKind::kResized:
      return "resized";
    case EventKind::kHotplugFailed:
      return "hotplug-failed";
  }
  return "unknown";
}

void EventLog::Add(EventKind kind, std::string_view container, std::string_view text) {
  Event event{.number = 0,
              .at = std::chrono::system_clock::now(),
              .kind = kind,
              .container = PlainText(container, kMaxEventText),
              .text = PlainText(text, kMaxEventText)};
  const std::lock_guard lock(mu_);
  event.number = ++last_;
  ++totals_[kind];
  for (const auto& [subscription, listener] : listeners_) {
    listener(event);
  }
  kept_.push_back(std::move(event));
  if (kept_.size() > kKept) {
    kept_.pop_front();
  }
}

uint64_t EventLog::Subscribe(bool kept, Listener listener) {
  const std::lock_guard lock(mu_);
  if (kept) {
    for (const Event& event : kept_) {
      listener(event);
    }
  }
  listeners_.emplace(++last_subscription_, std::move(listener));
  return last_subscription_;
}

void EventLog::Unsubscribe(uint64_t subscription) {
  const std::lock_guard lock(mu_);
  listeners_.erase(subscription);
}

std::vector<Event> EventLog::Kept() const {
  const std::lock_guard lock(mu_);
  return {kept_.begin(), kept_.end()};
}

std::map<EventKind, uint64_t> EventLog::Totals() const {
  const std::lock_guard lock(mu_);
  return totals_;
}

}  // namespace wyvern::observe
