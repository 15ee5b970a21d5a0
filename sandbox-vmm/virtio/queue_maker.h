// virtio/queue_maker.h — makes a queue in Queue::Create's place.
// Shape:   what a transport must know of every chain (vhost-user's dirty log and in-flight record)
//          stands around the real queue, which its maker gets by Queue::Create with a config that
//          names no maker. Devices do not see the difference; queues without a maker pay nothing.
// Threads: Make in the device's StartQueue, once per start.
#pragma once

#include "virtio/queue.h"

namespace wyvern::virtio {

class QueueMaker {
 public:
  virtual ~QueueMaker() = default;
  virtual tl::expected<std::unique_ptr<Queue>, ChainFault> Make(
      std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config, uint64_t features,
      std::optional<QueueState> resume) = 0;
};

}  // namespace wyvern::virtio
