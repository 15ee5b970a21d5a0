#include "worker/active_queue.h"

#include <sys/epoll.h>

#include "base/log.h"

namespace wyvern::devices {

Result<std::unique_ptr<ActiveQueue>> ActiveQueue::Start(EventLoop& loop, Options options) {
  auto queue = virtio::Queue::Create(options.resources.memory, options.resources.config,
                                     options.features, options.resume);
  if (!queue) {
    return Fail(Code::kInvalidArgument, virtio::ChainFaultName(queue.error()));
  }
  std::unique_ptr<ActiveQueue> active(new ActiveQueue(loop, std::move(options), *std::move(queue)));
  ActiveQueue* self = active.get();
  // Edge-triggered: each signal is an event, and the counter is never read, which saves a call per kick.
  WV_TRY(active->token_, loop.Add(active->options_.resources.kick, EPOLLIN | EPOLLET,
                                  [self](uint32_t /*events*/) { self->options_.on_kick(); }));
  return active;
}

ActiveQueue::ActiveQueue(EventLoop& loop, Options options, std::unique_ptr<virtio::Queue> queue)
    : loop_(loop), options_(std::move(options)), queue_(std::move(queue)) {}

ActiveQueue::~ActiveQueue() {
  *lives_ = false;
  loop_.Remove(token_);
}

std::optional<virtio::Chain> ActiveQueue::Pop() {
  if (broken_) {
    return std::nullopt;
  }
  auto chain = queue_->Pop();
  if (!chain) {
    broken_ = true;
    WV_WARN_LIMITED("{}: queue {} is broken by its driver: {}", options_.device, options_.index,
                    virtio::ChainFaultName(chain.error()));
    options_.on_fault();
    return std::nullopt;
  }
  return std::move(*chain);
}

void ActiveQueue::Signal() {
  if (queue_->NeedsInterrupt()) {
    options_.resources.interrupt->SignalQueue(options_.index);
  }
}

void ActiveQueue::RunAgain() {
  if (again_) {
    return;
  }
  again_ = true;
  loop_.Post([this, lives = lives_] {
    if (*lives) {
      again_ = false;
      options_.on_kick();
    }
  });
}

}  // namespace wyvern::devices
