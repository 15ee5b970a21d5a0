// worker/config_change.h — configuration fields that a device's owner changes while a driver reads
// them.
// Spec:    VIRTIO 1.4 §2.5.1 (the generation tells of every change), §2.1.2 (no notification before
//          DRIVER_OK).
// Invariants: a change and the generation that tells of it are one step for whoever reads under the
//          same lock; a change that no driver could be told of, because no queue runs (before the
//          start, during a pause), is told when the next queue starts.
// Threads: any. The lock is a leaf: `read` and `change` must not call out.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "virtio/device.h"

namespace wyvern::devices {

class ConfigChange {
 public:
  // Runs `read` under the lock.
  template <typename F>
  auto Read(F read) const {
    const std::lock_guard lock(mu_);
    return read();
  }

  // Runs `change` under the lock, without telling the driver: for what the driver itself changes.
  template <typename F>
  void Quietly(F change) {
    const std::lock_guard lock(mu_);
    change();
  }

  // Runs `change` under the lock and tells the driver.
  template <typename F>
  void Change(F change) {
    const std::lock_guard lock(mu_);
    change();
    due_ = true;
    TellLocked();
  }

  // With each queue that starts and stops: between the first and the last there is a driver.
  void QueueStarted(std::shared_ptr<virtio::Interrupt> interrupt) {
    const std::lock_guard lock(mu_);
    interrupt_ = std::move(interrupt);
    ++running_;
    if (due_) {
      TellLocked();
    }
  }

  void QueueStopped() {
    const std::lock_guard lock(mu_);
    if (--running_ == 0) {
      interrupt_.reset();
    }
  }

 private:
  void TellLocked() {
    if (interrupt_ != nullptr) {
      interrupt_->SignalConfig();
      due_ = false;
    }
  }

  mutable std::mutex mu_;
  std::shared_ptr<virtio::Interrupt> interrupt_;  // guarded by mu_; null: no queue runs
  uint32_t running_ = 0;                          // guarded by mu_
  bool due_ = false;                              // guarded by mu_
};

}  // namespace wyvern::devices
