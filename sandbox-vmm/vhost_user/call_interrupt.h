// vhost_user/call_interrupt.h — a device's interrupt as a front-end takes it: call and error
// eventfds, and CONFIG_CHANGE_MSG.
// State:   while every ring is stopped the device is suspended (vhost-user "Suspended device
//          state") and sends nothing; a change of the configuration is told when a ring runs again.
// Threads: any. The front-end replaces the descriptors at any time.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <vector>

#include "base/event_fd.h"
#include "virtio/device.h"

namespace wyvern::vhost_user {

class CallInterrupt final : public virtio::Interrupt {
 public:
  // `config_changed` tells the front-end; called without a lock.
  CallInterrupt(size_t rings, std::function<void()> config_changed)
      : config_changed_(std::move(config_changed)), calls_(rings), errors_(rings) {}

  void SignalQueue(uint16_t index) override;
  void SignalConfig() override;
  // Invalid: whoever wants a descriptor that is signalled for this ring gets none, since it can be
  // replaced.
  FdRef QueueCallFd(uint16_t index) override;

  // An error cannot be told apart by ring: the device broke.
  void SignalErrors();

  // Invalid: no descriptor. Precondition: index < rings.
  void SetCall(uint16_t index, UniqueFd fd);
  void SetError(uint16_t index, UniqueFd fd);

  void SetSuspended(bool suspended);

 private:
  using Fds = std::vector<std::optional<EventFd>>;
  void Set(Fds* fds, uint16_t index, UniqueFd fd);

  const std::function<void()> config_changed_;
  std::mutex mu_;
  Fds calls_;                    // guarded by mu_
  Fds errors_;                   // guarded by mu_
  bool suspended_ = true;        // guarded by mu_
  bool config_pending_ = false;  // guarded by mu_
};

}  // namespace wyvern::vhost_user
