// vhost_user/inflight.h — which chains a back-end has taken and not given back, in memory that
// outlives it: the next back-end takes them again.
// Spec:    vhost-user "Inflight I/O tracking", the region of split rings. Packed rings have another
//          one that needs the ring's descriptors: a back-end that tracks offers no packed ring.
// Shape:   one region per queue, each a multiple of 64 bytes: features, version, desc_num,
//          last_batch_head, used_idx (16 bytes), then 16 bytes per descriptor head.
// State:   version 0: nothing was recorded yet. A crash between any two stores loses no chain and
//          repeats none: `Recover` finishes what BeforeUsed began by the ring's own index.
// Errors:  INVALID_ARGUMENT for areas and regions that make no sense.
// Threads: the queue's.
// Trust:   the content comes from an earlier back-end through the front-end: every index is checked.
#pragma once

#include <memory>
#include <vector>

#include "base/mapping.h"
#include "vhost_user/messages.h"

namespace wyvern::vhost_user {

// One queue's region.
class InflightRing {
 public:
  InflightRing(std::shared_ptr<const Mapping> mapping, uint64_t offset, uint16_t descriptors)
      : mapping_(std::move(mapping)), offset_(offset), descriptors_(descriptors) {}

  uint16_t descriptors() const { return descriptors_; }

  struct Recovered {
    bool fresh = true;            // nothing was recorded of this ring
    std::vector<uint16_t> heads;  // in flight, in the order in which they were taken
  };

  // `used`: the index in the used area. To be called before the others.
  Result<Recovered> Recover(uint16_t used, uint16_t ring_size);

  // Precondition of the rest: head < ring_size.
  void Taken(uint16_t head);
  void Undone(uint16_t head);
  void BeforeUsed(uint16_t head);
  void AfterUsed(uint16_t head, uint16_t used);

 private:
  template <typename T>
  T Load(uint64_t at) const;
  template <typename T>
  void Store(uint64_t at, T value);
  void Forget(uint16_t used);

  std::shared_ptr<const Mapping> mapping_;
  uint64_t offset_;
  uint16_t descriptors_;
  uint64_t counter_ = 0;
};

// The memory of all queues.
class InflightRegion {
 public:
  struct Created {
    std::unique_ptr<InflightRegion> region;
    UniqueFd fd;  // for the front-end
    InflightArea area;
  };

  // New memory. `queues` at most `max_queues`, `queue_size` a ring's.
  static Result<Created> Create(uint16_t queues, uint16_t queue_size, uint16_t max_queues);
  // What the front-end kept.
  static Result<std::unique_ptr<InflightRegion>> Map(UniqueFd fd, const InflightArea& area,
                                                     uint16_t max_queues);

  // Null for a queue that it does not cover.
  std::unique_ptr<InflightRing> ring(uint16_t index) const;

 private:
  InflightRegion(Mapping mapping, uint64_t skip, uint16_t queues, uint16_t queue_size)
      : mapping_(std::make_shared<const Mapping>(std::move(mapping))),
        skip_(skip),
        queues_(queues),
        queue_size_(queue_size) {}

  std::shared_ptr<const Mapping> mapping_;
  const uint64_t skip_;  // bytes of the mapping before the first queue
  const uint16_t queues_;
  const uint16_t queue_size_;
};

}  // namespace wyvern::vhost_user
