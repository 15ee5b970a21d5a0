// virtio/testing/fake_interrupt.h — counts what a device signals; tests can wait for it.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "virtio/device.h"

namespace wyvern::virtio::testing {

class FakeInterrupt final : public Interrupt {
 public:
  static constexpr size_t kQueues = 64;

  void SignalQueue(uint16_t index) override {
    const std::lock_guard lock(mu_);
    ++queue_signals_.at(index);
    changed_.notify_all();
  }

  void SignalConfig() override {
    const std::lock_guard lock(mu_);
    ++config_signals_;
    changed_.notify_all();
  }

  FdRef QueueCallFd(uint16_t) override { return FdRef(-1); }

  uint64_t queue_signals(uint16_t index) const {
    const std::lock_guard lock(mu_);
    return queue_signals_.at(index);
  }

  uint64_t config_signals() const {
    const std::lock_guard lock(mu_);
    return config_signals_;
  }

  // True once more than `seen` signals of the queue have been counted; false after `timeout`.
  bool WaitQueue(uint16_t index, uint64_t seen,
                 std::chrono::milliseconds timeout = std::chrono::seconds(5)) const {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, timeout, [&] { return queue_signals_.at(index) > seen; });
  }

 private:
  mutable std::mutex mu_;
  mutable std::condition_variable changed_;
  std::array<uint64_t, kQueues> queue_signals_{};
  uint64_t config_signals_ = 0;
};

}  // namespace wyvern::virtio::testing
