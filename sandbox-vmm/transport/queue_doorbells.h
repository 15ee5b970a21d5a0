// transport/queue_doorbells.h — the eventfd by which each queue of a transport is kicked, and the
// doorbell that signals it without an exit; private to the transports.
// Errors:  where no doorbell is to be had, notifications arrive as exits: slower, not wrong.
// Threads: any; one mutex, taken after the transport's own and the core's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/event_fd.h"
#include "irq/interrupts.h"

namespace wyvern::transport {

class QueueDoorbells {
 public:
  // Where that queue's doorbell is.
  using Place = std::function<irq::Doorbell(uint16_t queue)>;

  // `registry` must outlive it; null: MoveTo is never called. `name`: for logs.
  static Result<std::unique_ptr<QueueDoorbells>> Create(irq::DoorbellRegistry* registry,
                                                        const char* name, size_t queues);
  ~QueueDoorbells();
  QueueDoorbells(const QueueDoorbells&) = delete;
  QueueDoorbells& operator=(const QueueDoorbells&) = delete;

  size_t queues() const { return queues_; }

  // That queue has a doorbell from now on, wherever MoveTo puts it.
  void Enable(uint16_t queue);
  // Nowhere, to begin with; empty: nowhere again.
  void MoveTo(Place place);

  std::shared_ptr<const EventFd> kick(uint16_t queue) const;
  // QueueResources::renew_kick.
  Result<FdRef> RenewKick(uint16_t queue);

 private:
  struct Bell {
    std::shared_ptr<const EventFd> kick;
    bool wanted = false;
    bool assigned = false;
  };

  QueueDoorbells(irq::DoorbellRegistry* registry, const char* name, std::vector<Bell> bells);
  void AssignLocked(uint16_t queue);
  void RemoveLocked(uint16_t queue);

  irq::DoorbellRegistry* const registry_;
  const char* const name_;
  const size_t queues_;
  mutable std::mutex mu_;
  std::vector<Bell> bells_;  // guarded by mu_
  Place place_;              // guarded by mu_
};

}  // namespace wyvern::transport
