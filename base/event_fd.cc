#include "base/event_fd.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace wyvern {

Result<EventFd> EventFd::Create() {
  UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) {
    return SysError("eventfd");
  }
  return EventFd(std::move(fd));
}

void EventFd::Signal() const {
  const uint64_t one = 1;
  // EAGAIN: the counter is at its maximum, the reader will see it.
  [[maybe_unused]] const ssize_t written = write(fd_.get(), &one, sizeof(one));
}

uint64_t EventFd::Drain() const {
  uint64_t count = 0;
  return read(fd_.get(), &count, sizeof(count)) == sizeof(count) ? count : 0;
}

Result<EventFd> EventFd::Duplicate() const {
  WV_TRY(UniqueFd fd, fd_.Duplicate());
  return EventFd(std::move(fd));
}

Result<TimerFd> TimerFd::Create() {
  UniqueFd fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!fd.valid()) {
    return SysError("timerfd_create");
  }
  return TimerFd(std::move(fd));
}

namespace {

timespec ToTimespec(std::chrono::nanoseconds time) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  return timespec{.tv_sec = seconds.count(), .tv_nsec = (time - seconds).count()};
}

}  // namespace

Result<> TimerFd::Arm(std::chrono::nanoseconds delay, std::chrono::nanoseconds interval) const {
  const itimerspec spec{.it_interval = ToTimespec(interval), .it_value = ToTimespec(delay)};
  if (timerfd_settime(fd_.get(), 0, &spec, nullptr) != 0) {
    return SysError("timerfd_settime");
  }
  return {};
}

uint64_t TimerFd::Drain() const {
  uint64_t count = 0;
  return read(fd_.get(), &count, sizeof(count)) == sizeof(count) ? count : 0;
}

Result<SignalFd> SignalFd::Create(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) {
    sigaddset(&set, signal);
  }
  const int error = pthread_sigmask(SIG_BLOCK, &set, nullptr);
  if (error != 0) {
    return SysErrorFrom(error, "pthread_sigmask");
  }
  UniqueFd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) {
    return SysError("signalfd");
  }
  return SignalFd(std::move(fd));
}

std::optional<int> SignalFd::Next() const {
  signalfd_siginfo info{};
  if (read(fd_.get(), &info, sizeof(info)) != sizeof(info)) {
    return std::nullopt;
  }
  return static_cast<int>(info.ssi_signo);
}

Result<PidFd> PidFd::OpenPid(pid_t pid) {
  UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!fd.valid()) {
    return SysError("pidfd_open " + std::to_string(pid));
  }
  return PidFd(std::move(fd), pid);
}

Result<> PidFd::Kill(int signal) const {
  if (syscall(SYS_pidfd_send_signal, fd_.get(), signal, nullptr, 0) != 0) {
    return SysError("signal " + std::to_string(signal) + " to process " + std::to_string(pid_));
  }
  return {};
}

Result<std::optional<ExitStatus>> PidFd::Wait(bool block) const {
  siginfo_t info{};
  int result = 0;
  do {
    // P_PIDFD is 3 (waitid(2)); glibc 2.36 has the name.
    result = waitid(P_PIDFD, static_cast<id_t>(fd_.get()), &info, WEXITED | (block ? 0 : WNOHANG));
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    return SysError("waitid " + std::to_string(pid_));
  }
  if (info.si_pid == 0) {
    return std::optional<ExitStatus>();
  }
  ExitStatus status;
  if (info.si_code == CLD_EXITED) {
    status.code = info.si_status;
  } else {
    status.signal = info.si_status;
  }
  return std::optional(status);
}

}  // namespace wyvern
