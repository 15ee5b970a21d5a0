// worker/active_queue.h — a started queue on a worker's loop: its kick, its interrupt, and draining
// it fairly.
// Spec:    VIRTIO 1.4 §2.7.7, §2.7.10.
// Shape:   on a kick the handler runs; Drain pops up to a budget of chains and comes back later for
//          the rest, so that one queue cannot
//          keep the worker from its other work.
// Errors:  a chain that is no chain breaks the queue: `on_fault` runs once, nothing is popped any
//          more.
// Threads: everything on the worker's thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "base/event_loop.h"
#include "base/loop_thread.h"
#include "virtio/device.h"

namespace wyvern::devices {

class ActiveQueue {
 public:
  static constexpr uint32_t kBudget = 128;

  struct Options {
    uint16_t index = 0;
    virtio::QueueResources resources;
    uint64_t features = 0;
    std::optional<virtio::QueueState> resume;
    const char* device = "";         // for logs
    std::function<void()> on_kick;   // the driver has notified, or Drain wants to go on
    std::function<void()> on_fault;  // the queue is broken
  };

  // INVALID_ARGUMENT: the rings are not where memory is. Does not call on_kick: whoever starts a
  // queue drains it once, since the driver
  // may have notified before.
  static Result<std::unique_ptr<ActiveQueue>> Start(EventLoop& loop, Options options);

  // From any other thread, for a device whose queues all live on `worker`: `started` gets the queue
  // there, and drains it once.
  template <typename F>
  static Result<> StartOn(LoopThread& worker, Options options, F started) {
    Result<> result;
    worker.Call([&] {
      auto queue = Start(worker.loop(), std::move(options));
      if (queue) {
        started(*std::move(queue));
      } else {
        result = tl::unexpected(std::move(queue).error());
      }
    });
    return result;
  }

  // Off the loop; chains that are still out may then be dropped.
  ~ActiveQueue();
  ActiveQueue(const ActiveQueue&) = delete;
  ActiveQueue& operator=(const ActiveQueue&) = delete;

  virtio::Queue& queue() { return *queue_; }

  virtio::QueueState state() const { return queue_->state(); }

  bool broken() const { return broken_; }

  // Pops one chain; a fault breaks the queue.
  std::optional<virtio::Chain> Pop();
  // Interrupts the driver if it wants that for what was pushed.
  void Signal();

  // Pops chains and hands them to `handle` (bool(Chain)) until there are none, the budget is used
  // up (on_kick comes again), or handle says
  // false after having called UndoPop (the device will call again by itself). Asks for
  // notifications when there are none left.
  template <typename F>
  void Drain(F handle) {
    queue_->DisableNotification();
    for (uint32_t i = 0; i < kBudget;) {
      std::optional<virtio::Chain> chain = Pop();
      if (chain) {
        ++i;
        if (!handle(std::move(*chain))) {
          Signal();
          return;
        }
        continue;
      }
      if (broken_ || !queue_->EnableNotification()) {
        Signal();
        return;
      }
      queue_->DisableNotification();
    }
    Signal();
    RunAgain();
  }

  // on_kick once more, after the loop has served others.
  void RunAgain();

 private:
  ActiveQueue(EventLoop& loop, Options options, std::unique_ptr<virtio::Queue> queue);

  EventLoop& loop_;
  Options options_;
  std::unique_ptr<virtio::Queue> queue_;
  EventLoop::Token token_ = EventLoop::Token::kNone;
  std::shared_ptr<bool> lives_ = std::make_shared<bool>(true);  // for posted tasks
  bool again_ = false;
  bool broken_ = false;
};

}  // namespace wyvern::devices
