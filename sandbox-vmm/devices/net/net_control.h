// net/net_control.h — the commands of the control queue, for every kind of network device.
// Spec:    VIRTIO 1.4 §5.1.9.5.
// Errors:  a command that was not negotiated, is not known, or does not have its exact length is
//          answered VIRTIO_NET_ERR and changes nothing.
// Threads: the device's worker; the counters any.   Trust: commands are the guest's. Each field is copied once; no
//          length of theirs makes us allocate.
#pragma once

#include <atomic>
#include <cstdint>

#include "net/net_config.h"
#include "net/rx_filter.h"
#include "virtio/queue.h"
#include "worker/active_queue.h"

namespace wyvern::devices {

// What a command may set in motion: the device.
class NetControlTarget {
 public:
  virtual ~NetControlTarget() = default;
  // 1..max; false: the host cannot, everything is as before.
  virtual bool SetPairs(uint16_t pairs) = 0;
  // A subset of the negotiated GUEST_ features.
  virtual bool SetOffloads(uint64_t offloads) = 0;
};

class NetControl {
 public:
  NetControl(NetConfig& config, uint16_t max_pairs, NetControlTarget& target)
      : config_(config), max_pairs_(max_pairs), target_(target) {
    Reset();
  }

  // Does what the driver asks for on its control queue, and answers.
  void Serve(ActiveQueue& queue, uint64_t features);

  const RxFilter& filter() const { return filter_; }

  // Nothing is filtered, the address is the configured one.
  void Reset();
  // From a snapshot; what makes no sense in it is cut.
  void Restore(const RxFilter& filter);

  uint64_t commands() const { return commands_.load(std::memory_order_relaxed); }

  uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  // The bytes of the answer.
  uint32_t Answer(virtio::Chain& chain, uint64_t features);
  bool Execute(const virtio::Chain& chain, uint64_t features);
  bool SetMode(const virtio::Chain& chain, uint8_t mode, uint64_t features);
  bool SetAddresses(const virtio::Chain& chain, uint8_t command, uint64_t features);
  bool SetTables(const virtio::Chain& chain);

  NetConfig& config_;
  const uint16_t max_pairs_;
  NetControlTarget& target_;
  RxFilter filter_;
  std::atomic<uint64_t> commands_{0};
  std::atomic<uint64_t> refused_{0};
};

}  // namespace wyvern::devices
