#include "agent/reaper.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cerrno>

#include "base/check.h"
#include "base/log.h"

namespace wyvern::agent {
namespace {

// Processes that end during one `crun exec`.
constexpr size_t kMaxUnclaimed = 4096;
constexpr int kLostStatus = 255;

ExitStatus Decode(int status) {
  if (WIFSIGNALED(status)) {
    return {.code = 0, .signal = WTERMSIG(status)};
  }
  return {.code = WEXITSTATUS(status), .signal = 0};
}

}  // namespace

Result<std::unique_ptr<Reaper>> Reaper::Create(EventLoop& loop) {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) {
    return SysError("prctl(PR_SET_CHILD_SUBREAPER)");
  }
  WV_TRY(SignalFd signals, SignalFd::Create({SIGCHLD}));
  std::unique_ptr<Reaper> reaper(new Reaper(loop, std::move(signals)));
  Reaper* raw = reaper.get();
  WV_TRY(reaper->token_, loop.Add(raw->signals_.fd(), EPOLLIN, [raw](uint32_t) {
    while (raw->signals_.Next()) {
    }
    raw->Reap();
  }));
  return reaper;
}

Reaper::~Reaper() {
  loop_.Remove(token_);
}

void Reaper::Watch(pid_t pid, Callback callback) {
  const auto known = unclaimed_.find(pid);
  if (known != unclaimed_.end()) {
    const ExitStatus status = known->second;
    unclaimed_.erase(known);
    loop_.Post([callback = std::move(callback), status] { callback(status); });
    return;
  }
  if (kill(pid, 0) != 0 && errno == ESRCH) {
    // Its status was dropped: nobody expected it, or too many came. Who waits must not wait for ever.
    WV_WARN_LIMITED("the exit status of process {} is lost", pid);
    loop_.Post([callback = std::move(callback)] { callback({.code = kLostStatus, .signal = 0}); });
    return;
  }
  const bool added = watched_.emplace(pid, std::move(callback)).second;
  WV_CHECK(added);
}

void Reaper::Reap() {
  while (true) {
    int raw_status = 0;
    const pid_t pid = waitpid(-1, &raw_status, WNOHANG);
    if (pid <= 0) {
      return;
    }
    const ExitStatus status = Decode(raw_status);
    const auto it = watched_.find(pid);
    if (it == watched_.end()) {
      if (expectations_ > 0 && unclaimed_.size() < kMaxUnclaimed) {
        unclaimed_[pid] = status;
      }
      continue;
    }
    const Callback callback = std::move(it->second);
    watched_.erase(it);
    callback(status);
  }
}

void Reaper::EndExpectation() {
  if (--expectations_ == 0) {
    unclaimed_.clear();
  }
}

}  // namespace wyvern::agent
