// net/net_transmitter.h — a transmit queue: the driver's packets to the tap.
// Spec:    VIRTIO 1.4 §5.1.9.2.
// Shape:   one writev per packet, of a header of ours and the driver's buffers. A packet in more
//          parts than one call takes is copied together first.
// Errors:  a packet that is none, or that the tap refuses, is counted and given back like any other:
//          a network loses packets.
// Threads: the device's worker.   Trust: packets are the guest's; the header is copied once, judged,
//          and written anew. Their contents the kernel copies.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "net/net_shared.h"
#include "worker/active_queue.h"

namespace wyvern::devices {

class NetTransmitter {
 public:
  // `on_blocked`: the tap has no room; somebody calls OnWritable when it has again.
  NetTransmitter(NetShared& shared, uint16_t pair, std::function<void()> on_blocked)
      : shared_(shared), pair_(pair), on_blocked_(std::move(on_blocked)) {}

  bool running() const { return queue_ != nullptr; }

  void Start(std::unique_ptr<ActiveQueue> queue);
  std::optional<virtio::QueueState> Stop();

  // The driver has packets, or it is this queue's turn again.
  void Serve();
  void OnWritable();
  // While disabled, what the driver sends is taken and dropped.
  void SetEnabled(bool enabled);
  // Looks again at once instead of when the old limit said.
  void LimitChanged();

 private:
  bool Take(virtio::Chain chain);
  bool Throttled();
  void CancelThrottle();
  int Send(const virtio::Chain& chain, const NetHeader& header, uint32_t length);

  NetShared& shared_;
  const uint16_t pair_;
  const std::function<void()> on_blocked_;
  std::unique_ptr<ActiveQueue> queue_;
  std::vector<iovec> parts_;
  bool enabled_ = true;
  bool blocked_ = false;
  EventLoop::Token throttle_ = EventLoop::Token::kNone;
};

}  // namespace wyvern::devices
