// The connections of a device: opening, the lists that they are in, deadlines, the end of all.
#include <algorithm>

#include "vsock/vsock_device.h"

namespace wyvern::devices {

uint64_t VsockDevice::Key(VsockConnection::Ports ports) {
  return uint64_t{ports.host} << 32U | ports.guest;
}

// What the guest may send ahead is memory of ours when the host does not read: there is an end to
// its sum, 64 MiB and 60 MiB with the default sizes.
uint32_t VsockDevice::BufferForNext() const {
  return full_buffers_ < kFullBuffers ? options_.buffer_size
                                      : std::min(options_.buffer_size, kSmallBuffer);
}

void VsockDevice::Open(uint32_t port, std::unique_ptr<HostSocket> host, Connected connected) {
  if (connections_.size() >= kMaxConnections && !MakeRoom()) {
    connected(Fail(Code::kResourceExhausted, "vsock: too many connections"));
    return;
  }
  VsockConnection::Ports ports{.host = next_host_port_, .guest = port};
  while (connections_.contains(Key(ports))) {
    ++ports.host;
  }
  next_host_port_ = std::max<uint32_t>(ports.host + 1, 1024);
  Connections& idle = list(Place::kIdle);
  const Connection connection =
      idle.emplace(idle.end(), worker_->loop(), ports, std::move(host), BufferForNext(),
                   [this, connected = std::move(connected)](Result<> outcome) {
                     counters_.connected.fetch_add(outcome ? 1 : 0, std::memory_order_relaxed);
                     connected(std::move(outcome));
                   });
  full_buffers_ += connection->buffer_size() > kSmallBuffer ? 1 : 0;
  connections_.emplace(Key(ports), connection);
  counters_.connections.store(connections_.size(), std::memory_order_relaxed);
  auto watched = connection->Watch([this, connection] {
    Sort(connection);
    SendPackets();
  });
  if (!watched) {
    connection->Reset(std::move(watched).error());
  }
  Sort(connection);
  SendPackets();
}

bool VsockDevice::Sort(Connection connection) {
  if (connection->finished()) {
    Forget(connection);
    return true;
  }
  Place place = Place::kIdle;
  if (connection->WantsToSend()) {
    place = Place::kReady;
  } else if (connection->connecting()) {
    place = Place::kConnecting;
  } else if (connection->lingering()) {
    place = Place::kLingering;
  }
  if (place != connection->place) {
    MoveToEnd(connection, place);
  }
  return false;
}

void VsockDevice::Forget(Connection connection) {
  full_buffers_ -= connection->buffer_size() > kSmallBuffer ? 1 : 0;
  connections_.erase(Key(connection->ports()));
  list(connection->place).erase(connection);
  counters_.connections.store(connections_.size(), std::memory_order_relaxed);
}

void VsockDevice::MoveToEnd(Connection connection, Place place) {
  Connections& to = list(place);
  to.splice(to.end(), list(connection->place), connection);
  connection->place = place;
}

// Full table: the connection whose host side is closed for longest goes, although the guest has not
// answered; its RST needs no place in the table.
bool VsockDevice::MakeRoom() {
  if (list(Place::kLingering).empty()) {
    return false;
  }
  const Connection oldest = list(Place::kLingering).begin();
  AnswerWithReset(oldest->ports(), oldest->type());
  Forget(oldest);
  return true;
}

// One timer for all: the first in the list is the first to end.
void VsockDevice::WatchDeadlines() {
  if (deadline_timer_ != EventLoop::Token::kNone || list(Place::kConnecting).empty()) {
    return;
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(
      list(Place::kConnecting).front().deadline - std::chrono::steady_clock::now());
  deadline_timer_ = worker_->loop().After(std::max(left, std::chrono::milliseconds(0)), [this] {
    deadline_timer_ = EventLoop::Token::kNone;
    OnDeadline();
  });
}

void VsockDevice::OnDeadline() {
  Connections& connecting = list(Place::kConnecting);
  const auto now = std::chrono::steady_clock::now();
  while (!connecting.empty() && connecting.front().deadline <= now) {
    const Connection connection = connecting.begin();
    connection->Reset(Error(Code::kDeadlineExceeded, "the guest does not answer"));
    Sort(connection);
  }
  WatchDeadlines();
  SendPackets();
}

// The guest is gone. Connections whose socket has not taken everything yet stay until it has.
void VsockDevice::DropConnections() {
  static_assert(static_cast<size_t>(Place::kIdle) == 0);  // where they go, and are not met again
  for (Connections& connections : lists_) {
    for (auto next = connections.begin(); next != connections.end();) {
      const Connection connection = next++;
      if (connection->request_sent()) {  // otherwise its guest is only about to come
        connection->GuestGone(Error(Code::kUnavailable, "the guest has reset its vsock device"));
        Sort(connection);
      }
    }
  }
}

// VIRTIO §5.10.3.2
bool VsockDevice::Speaks(uint16_t type) const {
  if (type == kVsockSeqpacket) {
    return (features_ & kVsockFeatureSeqpacket) != 0;
  }
  return (features_ & kVsockFeatureStream) != 0 || (features_ & kVsockFeatureNoImpliedStream) == 0;
}

}  // namespace wyvern::devices
