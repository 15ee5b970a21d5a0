#include "agent/lane.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <utility>

namespace wyvern::agent {
namespace {

using Clock = std::chrono::steady_clock;

// The kernel tells of most changes, which wakes us; not of all, and its messages can be lost.
constexpr std::chrono::milliseconds kFirstPoll(1);
constexpr std::chrono::milliseconds kLongestPoll(32);

}  // namespace

struct Lane::Entry {
  std::shared_ptr<Job> job;
  TimePoint deadline;
  EventLoop::Token timer = EventLoop::Token::kNone;
  std::atomic<bool> over{false};
};

Lane::Lane(EventLoop& loop, std::string name) : loop_(loop), name_(std::move(name)) {}

Lane::~Lane() {
  stopping_.store(true);
  thread_.reset();
  for (const EntryPtr& entry : entries_) {
    loop_.Remove(entry->timer);
  }
}

Result<> Lane::Start() {
  if (!wake_) {
    WV_TRY(EventFd wake, EventFd::Create());
    wake_ = std::make_unique<EventFd>(std::move(wake));
  }
  WV_TRY(thread_, WorkerThread::Start(name_, [this](const EventFd& stop) { Run(stop.fd()); }));
  return {};
}

Result<> Lane::Submit(std::shared_ptr<Job> job, TimePoint deadline) {
  if (!thread_) {
    WV_TRY_VOID(Start());
  }
  auto entry = std::make_shared<Entry>();
  entry->job = std::move(job);
  entry->deadline = deadline;
  {
    const std::lock_guard lock(mu_);
    if (entries_.size() >= kMaxJobs) {
      return Fail(Code::kResourceExhausted,
                  name_ + ": too many calls wait already: ask again when some are answered");
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    entry->timer = loop_.After(std::max(left, std::chrono::milliseconds(0)),
                               [this, weak = std::weak_ptr(entry)] {
                                 const EntryPtr expired = weak.lock();
                                 if (expired && !expired->over.exchange(true)) {
                                   Forget(expired);
                                   expired->job->Expire();
                                 }
                               });
    entries_.push_back(std::move(entry));
  }
  wake_->Signal();
  return {};
}

void Lane::Wake() {
  const std::lock_guard lock(mu_);
  if (!entries_.empty()) {
    wake_->Signal();
  }
}

void Lane::Forget(const EntryPtr& entry) {
  const std::lock_guard lock(mu_);
  std::erase(entries_, entry);
}

bool Lane::StepAll(const std::vector<EntryPtr>& entries) {
  bool more = false;
  for (const EntryPtr& entry : entries) {
    // What is late is left to the timer: its change is not even begun.
    if (stopping_.load() || entry->over.load() || Clock::now() >= entry->deadline) {
      continue;
    }
    const Job::Progress progress = entry->job->Step();
    more = more || progress == Job::Progress::kMore;
    if (progress == Job::Progress::kDone && !entry->over.exchange(true)) {
      Forget(entry);
      loop_.Post([&loop = loop_, timer = entry->timer] { loop.Remove(timer); });
    }
  }
  return more;
}

void Lane::Run(FdRef stop) {
  std::chrono::milliseconds wait = kFirstPoll;
  while (!stopping_.load()) {
    std::vector<EntryPtr> entries;
    {
      const std::lock_guard lock(mu_);
      entries = entries_;
    }
    const bool idle = entries.empty();
    const bool more = StepAll(entries);
    entries.clear();  // what is over is freed now, not after the sleep
    std::array<pollfd, 2> sources = {{{.fd = stop.get(), .events = POLLIN, .revents = 0},
                                      {.fd = wake_->fd().get(), .events = POLLIN, .revents = 0}}};
    const int timeout = idle ? -1 : (more ? 0 : static_cast<int>(wait.count()));
    (void)poll(sources.data(), sources.size(), timeout);
    if (sources[1].revents != 0) {
      wake_->Drain();
      wait = kFirstPoll;
    } else {
      wait = std::min(2 * wait, kLongestPoll);
    }
  }
}

}  // namespace wyvern::agent
