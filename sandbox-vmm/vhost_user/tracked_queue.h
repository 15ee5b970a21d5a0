// vhost_user/tracked_queue.h — stands around a device's queue and keeps two records for the
// front-end: which pages were written (migration), and which chains are in flight (reconnect).
// Shape:   the one place that sees every chain of every device, on its way in (Pop) and out (Push).
//          A ring that has neither record to keep has no such queue.
//          Chains that an earlier back-end left come first: the queue inside reads a driver area of
//          ours where they stand before what the driver makes available, which is copied behind
//          them as it comes. Nothing is written into the driver's own.
// Spec:    vhost-user "Migration", "Inflight I/O tracking".
// Threads: as virtio::Queue.
// Trust:   our driver area lies at a guest address beyond the guest's memory, where a descriptor
//          may point: what is there is as little trusted as the driver's own.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "vhost_user/dirty_log.h"
#include "vhost_user/inflight.h"
#include "virtio/queue_maker.h"

namespace wyvern::vhost_user {

struct Tracking {
  std::shared_ptr<DirtyLog> log;     // null: no migration
  std::optional<uint64_t> used_log;  // where writes to the used ring are marked
  std::shared_ptr<EventFd> logged;   // signalled after marks; may be null

  std::unique_ptr<InflightRing> inflight;  // null: not recorded
  std::vector<uint16_t> resubmit;          // heads to take again, in this order

  bool any() const { return log != nullptr || inflight != nullptr; }
};

// For one start of one ring. `resume` of that start: next_available counts `resubmit` as taken.
std::shared_ptr<virtio::QueueMaker> MakeTracked(Tracking tracking);

}  // namespace wyvern::vhost_user
