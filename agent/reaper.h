// agent/reaper.h — the exit statuses of every process that becomes our child: crun's, and those that crun leaves to us.
// Invariants: while an Expectation lives, statuses of processes nobody watches yet are kept, so that one which ends before its pid is
//             known is not lost; without one they are dropped, so that a number that comes again meets no old status.
// Threads: the loop's thread only.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "base/event_fd.h"
#include "base/event_loop.h"

namespace wyvern::agent {

class Reaper {
 public:
  using Callback = std::function<void(ExitStatus)>;

  class Expectation {
   public:
    explicit Expectation(Reaper& reaper) : reaper_(&reaper) { ++reaper_->expectations_; }

    ~Expectation() { reaper_->EndExpectation(); }

    Expectation(const Expectation&) = delete;
    Expectation& operator=(const Expectation&) = delete;

   private:
    Reaper* reaper_;
  };

  // Blocks SIGCHLD and makes this process the one that orphans below it are given to.
  static Result<std::unique_ptr<Reaper>> Create(EventLoop& loop);
  ~Reaper();
  Reaper(const Reaper&) = delete;
  Reaper& operator=(const Reaper&) = delete;

  // `callback` is called once, later, from the loop. Preconditions: `pid` is not watched yet.
  void Watch(pid_t pid, Callback callback);

  std::shared_ptr<Expectation> Expect() { return std::make_shared<Expectation>(*this); }

 private:
  Reaper(EventLoop& loop, SignalFd signals) : loop_(loop), signals_(std::move(signals)) {}

  void Reap();
  void EndExpectation();

  EventLoop& loop_;
  SignalFd signals_;
  EventLoop::Token token_ = EventLoop::Token::kNone;
  std::map<pid_t, Callback> watched_;
  std::map<pid_t, ExitStatus> unclaimed_;
  unsigned expectations_ = 0;
};

}  // namespace wyvern::agent
