#include "cli/pump.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <atomic>

#include "base/log.h"

namespace wyvern::cli {

// Of the pump and its thread, which ends first.
struct Pump::State {
  State(EventFd finish_event, EventFd done_event)
      : finish(std::move(finish_event)), done(std::move(done_event)) {}

  const EventFd finish;  // signalled after `stall` was set
  const EventFd done;
  std::atomic<std::chrono::milliseconds> stall{std::chrono::milliseconds(-1)};
};

namespace {

// False when the thread shall stop, or when it shall finish and nothing comes for `stall`.
bool WaitReadable(FdRef fd, const EventFd& stop, const EventFd& finish,
                  const std::atomic<std::chrono::milliseconds>& stall) {
  std::array<pollfd, 3> polled = {pollfd{.fd = fd.get(), .events = POLLIN, .revents = 0},
                                  pollfd{.fd = stop.fd().get(), .events = POLLIN, .revents = 0},
                                  pollfd{.fd = finish.fd().get(), .events = POLLIN, .revents = 0}};
  while (true) {
    const auto limit = stall.load();
    const bool finishing = limit.count() >= 0;
    const int ready =
        poll(polled.data(), finishing ? 2 : 3, finishing ? static_cast<int>(limit.count()) : -1);
    if (ready == 0) {
      WV_WARN("the process has ended, but its output has not; no more of it is waited for");
      return false;
    }
    if (ready > 0 && polled[1].revents != 0) {
      return false;
    }
    if (ready > 0 && polled[0].revents != 0) {
      return true;
    }
  }
}

void Copy(FdRef from, FdRef to, const std::function<bool()>& wait) {
  std::vector<std::byte> buffer(64U << 10U);
  while (wait()) {
    const auto got = ReadSome(from, buffer);
    if (!got) {
      if (got.error().sys_errno() == EAGAIN) {
        continue;
      }
      return;  // a terminal that hung up, a stream that was cut: the end
    }
    if (*got == 0 || !WriteAll(to, std::span(buffer).first(*got))) {
      return;
    }
  }
}

}  // namespace

Pump::Pump() = default;

Pump::~Pump() = default;

Result<std::unique_ptr<Pump>> Pump::Start(const char* name, UniqueFd from, UniqueFd to,
                                          std::function<void()> on_end) {
  std::unique_ptr<Pump> pump(new Pump());
  WV_TRY(EventFd finish, EventFd::Create());
  WV_TRY(EventFd done, EventFd::Create());
  pump->state_ = std::make_unique<State>(std::move(finish), std::move(done));
  auto source = std::make_shared<UniqueFd>(std::move(from));
  auto sink = std::make_shared<UniqueFd>(std::move(to));
  WV_TRY(pump->thread_,
         WorkerThread::Start(name, [source, sink, on_end = std::move(on_end),
                                    state = pump->state_.get()](const EventFd& stop) {
           Copy(*source, *sink,
                [&] { return WaitReadable(*source, stop, state->finish, state->stall); });
           // A socket's other direction lives on in a duplicate: half-close says that no more comes.
           shutdown(sink->get(), SHUT_WR);
           sink->Reset();
           if (on_end) {
             on_end();
           }
           state->done.Signal();
         }));
  return pump;
}

void Pump::Finish(std::chrono::milliseconds stall) {
  state_->stall = stall;
  state_->finish.Signal();
  pollfd polled{.fd = state_->done.fd().get(), .events = POLLIN, .revents = 0};
  while (poll(&polled, 1, -1) < 0) {
  }
  thread_->Join();
}

void Pump::Abandon() {
  thread_->Join();
}

}  // namespace wyvern::cli
