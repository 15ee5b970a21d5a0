#include "vhost_user/call_interrupt.h"

namespace wyvern::vhost_user {

void CallInterrupt::SignalQueue(uint16_t index) {
  const std::lock_guard lock(mu_);
  if (index < calls_.size() && calls_[index]) {
    calls_[index]->Signal();
  }
}

void CallInterrupt::SignalConfig() {
  {
    const std::lock_guard lock(mu_);
    if (suspended_) {
      config_pending_ = true;
      return;
    }
  }
  config_changed_();
}

FdRef CallInterrupt::QueueCallFd(uint16_t /*index*/) {
  return FdRef(-1);
}

void CallInterrupt::SignalErrors() {
  const std::lock_guard lock(mu_);
  for (const std::optional<EventFd>& error : errors_) {
    if (error) {
      error->Signal();
    }
  }
}

void CallInterrupt::SetCall(uint16_t index, UniqueFd fd) {
  Set(&calls_, index, std::move(fd));
}

void CallInterrupt::SetError(uint16_t index, UniqueFd fd) {
  Set(&errors_, index, std::move(fd));
}

void CallInterrupt::Set(Fds* fds, uint16_t index, UniqueFd fd) {
  const std::lock_guard lock(mu_);
  std::optional<EventFd>& slot = fds->at(index);
  slot.reset();
  if (fd.valid()) {
    slot.emplace(std::move(fd));
  }
}

void CallInterrupt::SetSuspended(bool suspended) {
  {
    const std::lock_guard lock(mu_);
    suspended_ = suspended;
    if (suspended || !config_pending_) {
      return;
    }
    config_pending_ = false;
  }
  config_changed_();
}

}  // namespace wyvern::vhost_user
