#include "net/net_receiver.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "net/net_header.h"

namespace wyvern::devices {

namespace {

constexpr uint16_t kVlan = 0x8100;
constexpr uint16_t kServiceVlan = 0x88a8;
// Spent chains at the front of the list are moved away this many at a time.
constexpr size_t kCompactAfter = 64;

}  // namespace

void NetReceiver::Start(std::unique_ptr<ActiveQueue> queue) {
  queue_ = std::move(queue);
  if (spill_ == nullptr) {
    spill_ = std::make_unique_for_overwrite<std::byte[]>(kSpill);
  }
  expected_ = kPrefix;
  notifications_ = true;
  OnReadable();
}

std::optional<virtio::QueueState> NetReceiver::Stop() {
  if (queue_ == nullptr) {
    return std::nullopt;
  }
  CancelTimer(throttle_);
  CancelTimer(room_timer_);
  if (packet_.has_value()) {
    NetCount(shared_.counters.rx_no_room);
    packet_.reset();
  }
  for (; held_.size() > first_; held_.pop_back()) {
    queue_->queue().UndoPop(std::move(held_.back()));
  }
  held_.clear();
  first_ = 0;
  room_ = 0;
  const virtio::QueueState state = queue_->state();
  queue_.reset();
  return state;
}

void NetReceiver::CancelTimer(EventLoop::Token& timer) {
  if (timer != EventLoop::Token::kNone) {
    shared_.loop.Remove(std::exchange(timer, EventLoop::Token::kNone));
  }
}

void NetReceiver::OnReadable() {
  readable_ = true;
  Serve();
}

void NetReceiver::SetEnabled(bool enabled) {
  enabled_ = enabled;
  OnReadable();
}

void NetReceiver::LimitChanged() {
  CancelTimer(throttle_);
  Serve();
}

void NetReceiver::Serve() {
  if (queue_ == nullptr || throttle_ != EventLoop::Token::kNone) {
    return;
  }
  if (notifications_) {
    // Buffers that come while there are some need not wake us.
    notifications_ = false;
    queue_->queue().DisableNotification();
  }
  if (!packet_.has_value() || Deliver()) {
    for (uint32_t done = 0; readable_; ++done) {
      if (done == kBudget) {
        queue_->RunAgain();
        break;
      }
      if (!ReceiveOne()) {
        break;
      }
      if (done % kSignalEvery == kSignalEvery - 1) {
        queue_->Signal();
      }
    }
  }
  queue_->Signal();
}

bool NetReceiver::ReceiveOne() {
  // Only what is in use is read (§5.1.9.5.6.2).
  if (!enabled_ || pair_ >= shared_.pairs || queue_->broken()) {
    return false;
  }
  if (!shared_.link_up) {
    return Discard();
  }
  if (!MayReceive()) {
    return false;
  }
  (void)Gather(mergeable() ? expected_ : 0);
  if (held_.size() == first_) {
    return WaitForBuffers();
  }
  if (held_[first_].writable_length() < kNetHeaderSize) {
    NetCount(shared_.counters.rx_bad_buffers);
    PushFirst(1, 0);
    return true;
  }
  BuildParts();
  const ssize_t got = shared_.tap.Receive(pair_, parts_);
  return got < 0 ? OnError(static_cast<int>(-got)) : Accept(static_cast<uint32_t>(got));
}

bool NetReceiver::Discard() {
  const std::array<iovec, 1> spill = {{{.iov_base = spill_.get(), .iov_len = kSpill}}};
  const ssize_t got = shared_.tap.Receive(pair_, spill);
  if (got <= 0) {
    return OnError(static_cast<int>(-got));
  }
  NetCount(shared_.counters.rx_link_down);
  return true;
}

bool NetReceiver::MayReceive() {
  if (!shared_.receive.limited()) {
    return true;
  }
  const RateLimiter::Time now = RateLimiter::Now();
  if (shared_.receive.Ready(now)) {
    return true;
  }
  NetCount(shared_.counters.rx_throttled);
  throttle_ = shared_.loop.After(shared_.receive.Delay(now), [this] {
    throttle_ = EventLoop::Token::kNone;
    Serve();
  });
  return false;
}

// Takes chains until they have room for `wanted` bytes, at least one. False: there are no more.
bool NetReceiver::Gather(uint64_t wanted) {
  while (room_ < wanted || held_.size() == first_) {
    std::optional<virtio::Chain> chain = queue_->Pop();
    if (!chain) {
      return false;
    }
    room_ += chain->writable_length();
    held_.push_back(*std::move(chain));
  }
  return true;
}

// True: some came while we asked.
bool NetReceiver::WaitForBuffers() {
  if (queue_->broken()) {
    return false;
  }
  if (queue_->queue().EnableNotification()) {
    queue_->queue().DisableNotification();
    return true;
  }
  notifications_ = true;
  return false;
}

void NetReceiver::BuildParts() {
  parts_.clear();
  parts_.push_back({.iov_base = &prefix_, .iov_len = kPrefix});
  direct_ = 0;
  for (size_t i = first_; i < held_.size(); ++i) {
    const virtio::Chain& chain = held_[i];
    const uint32_t skip = i == first_ ? kPrefix : 0;
    // What does not lend itself to this is filled by copying from the spill.
    if (chain.writable_length() <= skip ||
        chain.writable().size() > NetShared::kMaxParts - parts_.size()) {
      break;
    }
    const uint32_t length = std::min(chain.writable_length() - skip, kNetMaxPacket - direct_);
    const size_t before = parts_.size();
    if (!chain.WritableIovecs(skip, length, &parts_)) {
      break;
    }
    if (parts_.size() > NetShared::kMaxParts) {
      parts_.resize(before);
      break;
    }
    direct_ += length;
    if (!mergeable() || kPrefix + direct_ >= expected_ || direct_ == kNetMaxPacket) {
      break;
    }
  }
  parts_.push_back({.iov_base = spill_.get(), .iov_len = kSpill});
}

bool NetReceiver::OnError(int error) {
  if (error == EAGAIN) {
    readable_ = false;
    return false;
  }
  if (error == EINTR) {
    return true;
  }
  NetCount(shared_.counters.rx_errors);
  WV_WARN_LIMITED("{}: reading a packet: {}", shared_.name, strerrordesc_np(error));
  if (error == EFAULT || error == EINVAL) {
    return true;  // of that packet, which is gone: guest memory without backing, an unknown kind
  }
  readable_ = false;  // the tap is gone
  return false;
}

bool NetReceiver::Accept(uint32_t total) {
  if (total == 0) {
    return OnError(0);  // a socket's end; a tap has none
  }
  if (shared_.receive.limited()) {
    shared_.receive.Spend(total - std::min(total, kNetHeaderSize), RateLimiter::Now());
  }
  if (total < kPrefix) {
    NetCount(shared_.counters.rx_bad_packets);
    return true;
  }
  const uint32_t in_place = kPrefix + direct_;
  if (total - kNetHeaderSize > kNetMaxPacket || total >= in_place + kSpill) {
    NetCount(shared_.counters.rx_too_long);
    return true;
  }
  expected_ = std::max({total, expected_ / 2, kPrefix});
  if (!DriverMayHave(total - kNetHeaderSize)) {
    return true;
  }
  packet_ = Packet{.total = total, .in_place = std::min(total, in_place)};
  return Deliver();
}

// Judges the packet by what lies in the prefix, and completes the header but for num_buffers.
bool NetReceiver::DriverMayHave(uint32_t length) {
  const std::optional<NetHeader> header = CheckReceiveHeader(prefix_.header, shared_.offloads);
  if (!header) {
    NetCount(shared_.counters.rx_bad_packets);
    return false;
  }
  prefix_.header = *header;
  if ((shared_.features & kNetCtrlRx) != 0 && !shared_.filter.Accepts(prefix_.destination)) {
    NetCount(shared_.counters.rx_filtered);
    return false;
  }
  const uint16_t type = prefix_.ethertype.value();
  const uint32_t tag = type == kVlan || type == kServiceVlan ? kVlanTag : 0;
  // VIRTIO §5.1.4.1
  if (const uint16_t mtu = shared_.mtu_limit();
      mtu != 0 && header->gso_type == kNetGsoNone && length > mtu + kEthernetHeader + tag) {
    NetCount(shared_.counters.rx_too_long);
    return false;
  }
  return true;
}

// True: the packet is done with, delivered or not. False: it waits.
bool NetReceiver::Deliver() {
  WV_CHECK(packet_.has_value());
  const Packet packet = *packet_;
  if (!enabled_ || pair_ >= shared_.pairs) {
    // The driver has put this queue out of use while the packet waited (§5.1.9.5.6.2).
    CancelTimer(room_timer_);
    NetCount(shared_.counters.rx_no_room);
    packet_.reset();
    return true;
  }
  if (!mergeable()) {
    if (held_[first_].writable_length() < packet.total) {
      NetCount(shared_.counters.rx_too_long);
      packet_.reset();
      return true;  // the buffer serves the next
    }
  } else {
    while (!Gather(packet.total)) {
      if (!WaitForRoom()) {
        return false;
      }
    }
  }
  CancelTimer(room_timer_);
  packet_.reset();
  const uint16_t chains = ChainsFor(packet.total);
  prefix_.header.num_buffers = chains;
  const auto spilled = std::span<const std::byte>(spill_.get(), packet.total - packet.in_place);
  if (!Scatter(0, std::as_bytes(std::span(&prefix_, 1))) || !Scatter(packet.in_place, spilled)) {
    // Memory that cannot be written. The driver gets its buffers back, empty.
    NetCount(shared_.counters.rx_bad_buffers);
    PushFirst(chains, 0);
    return true;
  }
  PushFirst(chains, packet.total);
  NetCount(shared_.counters.rx_packets);
  NetCount(shared_.counters.rx_bytes, packet.total - kNetHeaderSize);
  if (!spilled.empty()) {
    NetCount(shared_.counters.rx_copied_bytes, spilled.size());
  }
  return true;
}

// True: buffers came while we asked.
bool NetReceiver::WaitForRoom() {
  if (WaitForBuffers()) {
    return true;
  }
  if (room_timer_ == EventLoop::Token::kNone) {
    room_timer_ = shared_.loop.After(shared_.room_wait, [this] {
      room_timer_ = EventLoop::Token::kNone;
      NetCount(shared_.counters.rx_no_room);
      packet_.reset();
      Serve();
    });
  }
  return false;
}

// Copies to `position` of what the held chains are together.
bool NetReceiver::Scatter(uint64_t position, std::span<const std::byte> bytes) {
  for (size_t i = first_; !bytes.empty(); ++i) {
    virtio::Chain& chain = held_.at(i);
    const uint32_t size = chain.writable_length();
    if (position >= size) {
      position -= size;
      continue;
    }
    const size_t piece = std::min<size_t>(size - position, bytes.size());
    if (!chain.Write(static_cast<uint32_t>(position), bytes.first(piece))) {
      return false;
    }
    bytes = bytes.subspan(piece);
    position = 0;
  }
  return true;
}

// Preconditions: the held chains have room for that.
uint16_t NetReceiver::ChainsFor(uint64_t total) const {
  uint16_t count = 0;  // heads are distinct, so there are at most 32768
  for (uint64_t covered = 0; covered < total; ++count) {
    covered += held_[first_ + count].writable_length();
  }
  return count;
}

// The driver sees all buffers of a packet or none, each but the last used to its end (§5.1.9.4.1).
void NetReceiver::PushFirst(uint32_t count, uint32_t total) {
  virtio::Queue& queue = queue_->queue();
  queue.HoldUsed();
  for (; count > 0; --count) {
    virtio::Chain chain = std::move(held_[first_]);
    ++first_;
    const uint32_t size = chain.writable_length();
    const uint32_t written = std::min(size, total);
    room_ -= size;
    total -= written;
    queue.Push(std::move(chain), written);
  }
  queue.PublishUsed();
  if (first_ == held_.size()) {
    held_.clear();
    first_ = 0;
  } else if (first_ >= kCompactAfter) {
    held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(first_));
    first_ = 0;
  }
}

}  // namespace wyvern::devices
