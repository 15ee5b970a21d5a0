#include "net/net_transmitter.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "net/net_header.h"

namespace wyvern::devices {

void NetTransmitter::Start(std::unique_ptr<ActiveQueue> queue) {
  queue_ = std::move(queue);
  blocked_ = false;
  Serve();
}

std::optional<virtio::QueueState> NetTransmitter::Stop() {
  if (queue_ == nullptr) {
    return std::nullopt;
  }
  CancelThrottle();
  const virtio::QueueState state = queue_->state();
  queue_.reset();
  return state;
}

void NetTransmitter::Serve() {
  if (queue_ == nullptr || blocked_ || throttle_ != EventLoop::Token::kNone) {
    return;
  }
  queue_->Drain([this](virtio::Chain chain) { return Take(std::move(chain)); });
}

void NetTransmitter::OnWritable() {
  if (std::exchange(blocked_, false)) {
    Serve();
  }
}

void NetTransmitter::SetEnabled(bool enabled) {
  enabled_ = enabled;
  if (!enabled) {
    // What waits for room or for its turn is dropped like the rest.
    blocked_ = false;
    CancelThrottle();
    Serve();
  }
}

void NetTransmitter::LimitChanged() {
  CancelThrottle();
  Serve();
}

void NetTransmitter::CancelThrottle() {
  if (throttle_ != EventLoop::Token::kNone) {
    shared_.loop.Remove(std::exchange(throttle_, EventLoop::Token::kNone));
  }
}

bool NetTransmitter::Throttled() {
  if (!shared_.transmit.limited()) {
    return false;
  }
  const RateLimiter::Time now = RateLimiter::Now();
  if (shared_.transmit.Ready(now)) {
    return false;
  }
  NetCount(shared_.counters.tx_throttled);
  throttle_ = shared_.loop.After(shared_.transmit.Delay(now), [this] {
    throttle_ = EventLoop::Token::kNone;
    Serve();
  });
  return true;
}

// False: the chain is back on the ring, and something will bring us back.
bool NetTransmitter::Take(virtio::Chain chain) {
  virtio::Queue& queue = queue_->queue();
  NetCounters& counters = shared_.counters;
  const bool usable = enabled_ && pair_ < shared_.pairs;
  if (!usable || !shared_.link_up) {
    // §5.1.9.5.6.1: the driver must not use this queue. A link that is down takes what it is given.
    NetCount(usable ? counters.tx_link_down : counters.tx_inactive);
    queue.Push(std::move(chain), 0);
    return true;
  }
  const auto header = chain.ReadAs<NetHeader>(0);
  if (!header) {
    NetCount(counters.tx_bad_lengths);
    queue.Push(std::move(chain), 0);
    return true;
  }
  const uint32_t length = chain.readable_length() - kNetHeaderSize;
  const auto checked = CheckTransmitHeader(*header, length, shared_.features);
  if (!checked) {
    NetCount(checked.error() == TxFault::kLength ? counters.tx_bad_lengths
                                                 : counters.tx_bad_headers);
    queue.Push(std::move(chain), 0);
    return true;
  }
  if (Throttled()) {
    queue.UndoPop(std::move(chain));
    return false;
  }
  const int error = Send(chain, *checked, length);
  if (error == EAGAIN) {
    NetCount(counters.tx_blocked);
    blocked_ = true;
    queue.UndoPop(std::move(chain));
    on_blocked_();
    return false;
  }
  if (error != 0) {
    NetCount(counters.tx_errors);
    WV_WARN_LIMITED("{}: sending a packet: {}", shared_.name, strerrordesc_np(error));
  } else {
    NetCount(counters.tx_packets);
    NetCount(counters.tx_bytes, length);
  }
  if (shared_.transmit.limited()) {
    shared_.transmit.Spend(length, RateLimiter::Now());
  }
  queue.Push(std::move(chain), 0);
  return true;
}

// 0, or an errno.
int NetTransmitter::Send(const virtio::Chain& chain, const NetHeader& header, uint32_t length) {
  NetHeader ours = header;
  const iovec front{.iov_base = &ours, .iov_len = kNetHeaderSize};
  parts_.assign(1, front);
  const bool direct = chain.readable().size() <= NetShared::kMaxParts &&
                      chain.ReadableIovecs(kNetHeaderSize, length, &parts_).has_value() &&
                      parts_.size() <= NetShared::kMaxParts;
  if (!direct) {
    if (!chain.Read(kNetHeaderSize, std::span(shared_.scratch.get(), length))) {
      return EFAULT;
    }
    parts_.assign(1, front);
    parts_.push_back({.iov_base = shared_.scratch.get(), .iov_len = length});
  }
  for (;;) {
    const ssize_t sent = shared_.tap.Send(pair_, parts_);
    if (sent >= 0) {
      return 0;
    }
    if (sent != -EINTR) {
      return static_cast<int>(-sent);
    }
  }
}

}  // namespace wyvern::devices
