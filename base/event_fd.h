// base/event_fd.h — eventfd(2), timerfd(2), signalfd(2), pidfd: kernel objects that an epoll loop
// can wait for.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <optional>

#include "base/fd.h"

namespace wyvern {

class EventFd {
 public:
  // Non-blocking, close-on-exec.
  static Result<EventFd> Create();

  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}

  // Adds 1. A counter at its maximum is as good as signalled, so this does not block, but for who shares
  // the eventfd with us: he can clear O_NONBLOCK, which is of the file and not of the descriptor, and
  // fill the counter. No call adds to an eventfd that such a one cannot hold up (write takes no
  // RWF_NOWAIT), so what others have is not for us to signal.
  void Signal() const;
  // The counter since the last Drain, 0 if none.
  uint64_t Drain() const;

  FdRef fd() const { return fd_; }

  Result<EventFd> Duplicate() const;

  UniqueFd Take() && { return std::move(fd_); }

 private:
  UniqueFd fd_;
};

class TimerFd {
 public:
  // CLOCK_MONOTONIC (or CLOCK_BOOTTIME via `clock`), disarmed.
  static Result<TimerFd> Create();
  // Fires once after `delay` (and then each `interval` when it is not 0); a zero delay disarms.
  Result<> Arm(std::chrono::nanoseconds delay, std::chrono::nanoseconds interval = {}) const;
  // Expirations since the last Drain.
  uint64_t Drain() const;

  FdRef fd() const { return fd_; }

 private:
  explicit TimerFd(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

class SignalFd {
 public:
  // Blocks the signals in the calling thread (call before starting threads) and makes them readable
  // here.
  static Result<SignalFd> Create(std::initializer_list<int> signals);
  // The next pending signal's number, or nothing.
  std::optional<int> Next() const;

  FdRef fd() const { return fd_; }

 private:
  explicit SignalFd(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

struct ExitStatus {
  int code = 0;    // exit code, valid when signal is 0
  int signal = 0;  // the signal that killed the process, or 0

  // What shells and containerd report: code, or 128 + signal.
  int AsShell() const { return signal != 0 ? 128 + signal : code; }
};

// A process that cannot be mistaken for a later one with the same number. Readable when it has
// exited.
class PidFd {
 public:
  static Result<PidFd> OpenPid(pid_t pid);

  // pidfd_send_signal(2); a process that is gone is NOT_FOUND.
  Result<> Kill(int signal) const;
  // waitid(P_PIDFD) for our own child; `block` false: nothing when it still runs.
  Result<std::optional<ExitStatus>> Wait(bool block) const;

  pid_t pid() const { return pid_; }

  FdRef fd() const { return fd_; }

 private:
  PidFd(UniqueFd fd, pid_t pid) : fd_(std::move(fd)), pid_(pid) {}

  UniqueFd fd_;
  pid_t pid_;
};

}  // namespace wyvern
