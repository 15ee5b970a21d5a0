#include "vhost_user/kick_poller.h"

#include <poll.h>

namespace wyvern::vhost_user {

Result<std::unique_ptr<KickPoller>> KickPoller::Start(std::chrono::milliseconds interval) {
  std::unique_ptr<KickPoller> poller(new KickPoller(interval));
  KickPoller* self = poller.get();
  WV_TRY(poller->thread_,
         WorkerThread::Start("vhost-poll", [self](const EventFd& stop) { self->Run(stop); }));
  return poller;
}

Result<> KickPoller::Add(uint16_t index, const EventFd& kick) {
  WV_TRY(EventFd duplicate, kick.Duplicate());
  const std::lock_guard lock(mu_);
  kicks_.insert_or_assign(index, std::move(duplicate));
  return {};
}

void KickPoller::Remove(uint16_t index) {
  const std::lock_guard lock(mu_);
  kicks_.erase(index);
}

void KickPoller::Run(const EventFd& stop) {
  pollfd polled{.fd = stop.fd().get(), .events = POLLIN, .revents = 0};
  while (::poll(&polled, 1, static_cast<int>(interval_.count())) <= 0) {
    const std::lock_guard lock(mu_);
    for (const auto& [index, kick] : kicks_) {
      kick.Signal();
    }
  }
}

}  // namespace wyvern::vhost_user
