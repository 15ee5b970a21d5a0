#include "transport/queue_doorbells.h"

#include <utility>

#include "base/log.h"

namespace wyvern::transport {

Result<std::unique_ptr<QueueDoorbells>> QueueDoorbells::Create(irq::DoorbellRegistry* registry,
                                                               const char* name, size_t queues) {
  std::vector<Bell> bells(queues);
  for (Bell& bell : bells) {
    WV_TRY(EventFd kick, EventFd::Create());
    bell.kick = std::make_shared<const EventFd>(std::move(kick));
  }
  return std::unique_ptr<QueueDoorbells>(new QueueDoorbells(registry, name, std::move(bells)));
}

QueueDoorbells::QueueDoorbells(irq::DoorbellRegistry* registry, const char* name,
                               std::vector<Bell> bells)
    : registry_(registry), name_(name), queues_(bells.size()), bells_(std::move(bells)) {}

QueueDoorbells::~QueueDoorbells() {
  MoveTo({});
}

void QueueDoorbells::Enable(uint16_t queue) {
  const std::lock_guard lock(mu_);
  bells_[queue].wanted = true;
  AssignLocked(queue);
}

void QueueDoorbells::MoveTo(Place place) {
  const std::lock_guard lock(mu_);
  for (size_t i = 0; i < queues_; ++i) {
    RemoveLocked(static_cast<uint16_t>(i));
  }
  place_ = std::move(place);
  for (size_t i = 0; i < queues_; ++i) {
    AssignLocked(static_cast<uint16_t>(i));
  }
}

void QueueDoorbells::AssignLocked(uint16_t queue) {
  Bell& bell = bells_[queue];
  if (!place_ || !bell.wanted || bell.assigned) {
    return;
  }
  const auto assigned = registry_->AssignIoeventfd(place_(queue), *bell.kick);
  bell.assigned = assigned.has_value();
  if (!assigned) {
    WV_WARN_LIMITED("{}: no doorbell for queue {}: {}", name_, queue, assigned.error().message());
  }
}

void QueueDoorbells::RemoveLocked(uint16_t queue) {
  Bell& bell = bells_[queue];
  if (std::exchange(bell.assigned, false)) {
    (void)registry_->RemoveIoeventfd(place_(queue), *bell.kick);
  }
}

std::shared_ptr<const EventFd> QueueDoorbells::kick(uint16_t queue) const {
  const std::lock_guard lock(mu_);
  return bells_[queue].kick;
}

// Signalled while nobody else has it. A notification that comes in between is an exit, and waits for
// the lock.
Result<FdRef> QueueDoorbells::RenewKick(uint16_t queue) {
  WV_TRY(EventFd event, EventFd::Create());
  event.Signal();
  const std::lock_guard lock(mu_);
  RemoveLocked(queue);
  bells_[queue].kick = std::make_shared<const EventFd>(std::move(event));
  AssignLocked(queue);
  return bells_[queue].kick->fd();
}

}  // namespace wyvern::transport
