#include "base/event_loop.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/check.h"

namespace wyvern {

using Clock = std::chrono::steady_clock;

struct EventLoop::Source {
  int fd;
  IoCallback callback;
  bool removed = false;
};

namespace {

constexpr uint64_t kWakeToken = 0;

}  // namespace

EventLoop::EventLoop(UniqueFd epoll, EventFd wake)
    : epoll_(std::move(epoll)), wake_(std::move(wake)) {}

EventLoop::~EventLoop() = default;

Result<std::unique_ptr<EventLoop>> EventLoop::Create() {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) {
    return SysError("epoll_create1");
  }
  WV_TRY(EventFd wake, EventFd::Create());
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWakeToken;
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.fd().get(), &event) != 0) {
    return SysError("epoll_ctl(ADD wake)");
  }
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll), std::move(wake)));
}

Result<EventLoop::Token> EventLoop::Add(FdRef fd, uint32_t events, IoCallback callback) {
  const uint64_t token = next_token_++;
  epoll_event event{};
  event.events = events;
  event.data.u64 = token;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0) {
    return SysError("epoll_ctl(ADD)");
  }
  auto source = std::make_shared<Source>();
  source->fd = fd.get();
  source->callback = std::move(callback);
  sources_.emplace(token, std::move(source));
  return Token{token};
}

Result<> EventLoop::Modify(Token token, uint32_t events) {
  const auto found = sources_.find(static_cast<uint64_t>(token));
  WV_CHECK(found != sources_.end());
  epoll_event event{};
  event.events = events;
  event.data.u64 = static_cast<uint64_t>(token);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, found->second->fd, &event) != 0) {
    return SysError("epoll_ctl(MOD)");
  }
  return {};
}

void EventLoop::Remove(Token token) {
  const auto key = static_cast<uint64_t>(token);
  const auto found = sources_.find(key);
  if (found != sources_.end()) {
    found->second->removed = true;
    // The fd may be closed already: then the kernel has forgotten it.
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second->fd, nullptr);
    sources_.erase(found);
    return;
  }
  const auto timer = std::find_if(timers_.begin(), timers_.end(),
                                  [key](const auto& entry) { return entry.second.first == key; });
  if (timer != timers_.end()) {
    timers_.erase(timer);
  }
}

EventLoop::Token EventLoop::After(std::chrono::milliseconds delay, Task task) {
  const uint64_t token = next_token_++;
  timers_.emplace(Clock::now() + delay, std::pair(token, std::move(task)));
  return Token{token};
}

void EventLoop::Post(Task task) {
  {
    const std::lock_guard lock(mu_);
    posted_.push_back(std::move(task));
  }
  wake_.Signal();
}

void EventLoop::Stop() {
  stop_.store(true);
  wake_.Signal();
}

bool EventLoop::OnLoopThread() const {
  return thread_.load() == std::this_thread::get_id();
}

int EventLoop::TimeoutUntilNextTimer(std::chrono::milliseconds limit) const {
  if (timers_.empty()) {
    return static_cast<int>(limit.count());
  }
  // Rounded up, so that a timer does not spin in its last millisecond.
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first - Clock::now());
  const int64_t wait = std::max<int64_t>(left.count(), 0);
  return static_cast<int>(limit.count() < 0 ? wait : std::min<int64_t>(wait, limit.count()));
}

void EventLoop::RunTimers() {
  const auto now = Clock::now();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    Task task = std::move(timers_.begin()->second.second);
    timers_.erase(timers_.begin());
    task();
  }
}

void EventLoop::RunPosted() {
  std::vector<Task> tasks;
  {
    const std::lock_guard lock(mu_);
    tasks.swap(posted_);
  }
  for (Task& task : tasks) {
    task();
  }
}

Result<> EventLoop::RunOnce(std::chrono::milliseconds timeout) {
  thread_.store(std::this_thread::get_id());
  std::array<epoll_event, 64> events{};
  const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                               TimeoutUntilNextTimer(timeout));
  if (count < 0 && errno != EINTR) {
    return SysError("epoll_wait");
  }
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    const uint64_t token = event.data.u64;  // a copy: the structure is packed on x86
    if (token == kWakeToken) {
      wake_.Drain();
      continue;
    }
    const auto found = sources_.find(token);
    if (found == sources_.end()) {
      continue;  // removed by an earlier callback of this batch
    }
    // Keeps the callback alive while it removes itself.
    const std::shared_ptr<Source> source = found->second;
    source->callback(event.events);
  }
  RunTimers();
  RunPosted();
  return {};
}

Result<> EventLoop::Run() {
  while (!stop_.load()) {
    WV_TRY_VOID(RunOnce(std::chrono::milliseconds(-1)));
  }
  stop_.store(false);
  return {};
}

}  // namespace wyvern
