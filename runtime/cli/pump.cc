#include "cli/pump.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>

namespace wyvern::cli {

namespace {

// False when the thread shall stop.
bool WaitReadable(FdRef fd, const EventFd& stop) {
  std::array<pollfd, 2> polled = {pollfd{.fd = fd.get(), .events = POLLIN, .revents = 0},
                                  pollfd{.fd = stop.fd().get(), .events = POLLIN, .revents = 0}};
  while (poll(polled.data(), polled.size(), -1) < 0) {
  }
  return polled[1].revents == 0;
}

void Copy(FdRef from, FdRef to, const EventFd& stop) {
  std::vector<std::byte> buffer(64U << 10U);
  while (WaitReadable(from, stop)) {
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

Result<std::unique_ptr<Pump>> Pump::Start(const char* name, UniqueFd from, UniqueFd to,
                                          std::function<void()> on_end) {
  std::unique_ptr<Pump> pump(new Pump());
  WV_TRY(EventFd done, EventFd::Create());
  pump->done_ = std::make_unique<EventFd>(std::move(done));
  auto source = std::make_shared<UniqueFd>(std::move(from));
  auto sink = std::make_shared<UniqueFd>(std::move(to));
  WV_TRY(pump->thread_, WorkerThread::Start(name, [source, sink, on_end = std::move(on_end),
                                                   done = pump->done_.get()](const EventFd& stop) {
           Copy(*source, *sink, stop);
           // A socket's other direction lives on in a duplicate: half-close says that no more comes.
           shutdown(sink->get(), SHUT_WR);
           sink->Reset();
           if (on_end) {
             on_end();
           }
           done->Signal();
         }));
  return pump;
}

void Pump::Finish() {
  pollfd polled{.fd = done_->fd().get(), .events = POLLIN, .revents = 0};
  while (poll(&polled, 1, -1) < 0) {
  }
  thread_->Join();
}

void Pump::Abandon() {
  thread_->Join();
}

}  // namespace wyvern::cli
