#include "vsock/vsock_device.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

Result<std::unique_ptr<VsockDevice>> VsockDevice::Create(const VsockOptions& options) {
  WV_TRY(auto worker, StartWorker(options.worker));
  return std::unique_ptr<VsockDevice>(new VsockDevice(options, std::move(worker)));
}

VsockDevice::VsockDevice(const VsockOptions& options, std::unique_ptr<LoopThread> worker)
    : options_(options), worker_(std::move(worker)) {
  traits_.device_id = virtio::kDeviceVsock;
  traits_.features = virtio::kRingFeatures;
  traits_.queue_sizes = {256, 256, 16};
  traits_.config_length = sizeof(uint64_t);
  traits_.name = "vsock";
}

VsockDevice::~VsockDevice() {
  worker_->Call([this] {
    for (auto& queue : queues_) {
      queue.reset();
    }
    ready_.clear();
    connections_.clear();
  });
}

uint64_t VsockDevice::Key(VsockConnection::Ports ports) {
  return uint64_t{ports.host} << 32U | ports.guest;
}

void VsockDevice::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  const Le64 cid(options_.guest_cid);
  std::ranges::fill(out, std::byte{0});
  if (offset < sizeof(cid)) {
    std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&cid) + offset,
                std::min<size_t>(out.size(), sizeof(cid) - offset));
  }
}

void VsockDevice::WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) {}

Result<> VsockDevice::StartQueue(uint16_t index, virtio::QueueResources resources,
                                 uint64_t features, std::optional<virtio::QueueState> resume) {
  Result<> result;
  worker_->Call([&] {
    auto started = ActiveQueue::Start(worker_->loop(), {.index = index,
                                                        .resources = std::move(resources),
                                                        .features = features,
                                                        .resume = resume,
                                                        .device = traits_.name,
                                                        .on_kick = [this, index] { OnKick(index); },
                                                        .on_fault =
                                                            [this] {
                                                              counters_.faults.fetch_add(
                                                                  1, std::memory_order_relaxed);
                                                              NeedsReset();
                                                            }});
    if (!started) {
      result = tl::unexpected(std::move(started).error());
      return;
    }
    queues_[index] = *std::move(started);
    OnKick(index);
  });
  return result;
}

std::optional<virtio::QueueState> VsockDevice::StopQueue(uint16_t index) {
  std::optional<virtio::QueueState> state;
  worker_->Call([&] {
    if (queues_[index] != nullptr) {
      state = queues_[index]->state();
      queues_[index].reset();
    }
  });
  return state;
}

void VsockDevice::Reset() {
  worker_->Call([this] {
    DropStreams();
    stray_resets_.clear();
    event_due_ = false;
  });
}

void VsockDevice::OnKick(uint16_t index) {
  if (index == kToGuest) {
    SendPackets();
  } else if (index == kFromGuest) {
    TakePackets();
  } else {
    SendEvents();
  }
}

Result<> VsockDevice::ConnectStream(uint32_t port, UniqueFd socket, Connected connected) {
  int type = 0;
  socklen_t length = sizeof(type);
  if (getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &length) != 0) {
    return SysError("vsock: not a socket");
  }
  if (type != SOCK_STREAM) {
    return Fail(Code::kInvalidArgument, "vsock: a stream socket is needed");
  }
  // std::function wants copies; the descriptor has one owner.
  auto held = std::make_shared<UniqueFd>(std::move(socket));
  worker_->loop().Post([this, port, held, connected = std::move(connected)]() mutable {
    Open(port, std::move(*held), std::move(connected));
  });
  return {};
}

void VsockDevice::Open(uint32_t port, UniqueFd socket, Connected connected) {
  if (connections_.size() >= kMaxConnections && !MakeRoom()) {
    connected(Fail(Code::kResourceExhausted, "vsock: too many streams"));
    return;
  }
  VsockConnection::Ports ports{.host = next_host_port_, .guest = port};
  while (connections_.contains(Key(ports))) {
    ++ports.host;
  }
  next_host_port_ = std::max<uint32_t>(ports.host + 1, 1024);
  auto connection = std::make_unique<VsockConnection>(
      worker_->loop(), ports, std::move(socket), options_.buffer_size,
      [this, connected = std::move(connected)](Result<> outcome) {
        counters_.connected.fetch_add(outcome ? 1 : 0, std::memory_order_relaxed);
        connected(std::move(outcome));
      });
  VsockConnection* raw = connection.get();
  connections_.emplace(Key(ports), std::move(connection));
  counters_.connections.store(connections_.size(), std::memory_order_relaxed);
  auto watched = raw->Watch([this, raw] {
    MakeReady(*raw);
    if (!RemoveIfFinished(*raw)) {
      SendPackets();
    }
  });
  if (!watched) {
    raw->Reset(std::move(watched).error());
    RemoveIfFinished(*raw);
    return;
  }
  MakeReady(*raw);
  SendPackets();
}

// Full table: a stream whose host side is long closed goes, although the guest has not answered.
bool VsockDevice::MakeRoom() {
  const auto lingering = std::ranges::find_if(
      connections_, [](const auto& entry) { return entry.second->lingering(); });
  if (lingering == connections_.end()) {
    return false;
  }
  lingering->second->Reset(Error(Code::kResourceExhausted, "vsock: too many streams"));
  MakeReady(*lingering->second);
  SendPackets();
  return connections_.size() < kMaxConnections;
}

void VsockDevice::ArmTimer(VsockConnection& connection) {
  connection.timer =
      worker_->loop().After(options_.connect_timeout, [this, key = Key(connection.ports())] {
        const auto found = connections_.find(key);
        if (found == connections_.end() || found->second->established()) {
          return;
        }
        found->second->timer = EventLoop::Token::kNone;
        found->second->Reset(Error(Code::kDeadlineExceeded, "the guest does not answer"));
        MakeReady(*found->second);
        SendPackets();
      });
}

// The guest is gone. Streams whose socket has not taken everything yet stay until it has.
void VsockDevice::DropStreams() {
  for (auto it = connections_.begin(); it != connections_.end();) {
    VsockConnection& connection = *it->second;
    if (connection.request_sent()) {  // otherwise its guest is only about to come
      worker_->loop().Remove(std::exchange(connection.timer, EventLoop::Token::kNone));
      connection.GuestGone(Error(Code::kUnavailable, "the guest has reset its vsock device"));
      if (connection.finished()) {
        std::erase(ready_, it->first);
        it = connections_.erase(it);
        continue;
      }
    }
    ++it;
  }
  counters_.connections.store(connections_.size(), std::memory_order_relaxed);
}

void VsockDevice::ResetTransport() {
  worker_->loop().Post([this] {
    DropStreams();
    event_due_ = true;
    SendEvents();
  });
}

void VsockDevice::SendEvents() {
  ActiveQueue* queue = queues_[kEvents].get();
  if (queue == nullptr || !event_due_) {
    // A fault is a fault also in a queue that nobody needs now.
    return;
  }
  std::optional<virtio::Chain> chain = queue->Pop();
  if (!chain) {
    return;  // the driver's next buffer brings us back
  }
  const Le32 transport_reset(0U);  // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET
  const bool written = chain->Write(0, std::as_bytes(std::span(&transport_reset, 1))).has_value();
  queue->queue().Push(std::move(*chain), written ? sizeof(transport_reset) : 0);
  event_due_ = !written;
  queue->Signal();
}

std::vector<virtio::CounterValue> VsockDevice::counters() const {
  const auto get = [](const std::atomic<uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  return {{"connections", get(counters_.connections)},
          {"connected", get(counters_.connected)},
          {"packets_to_guest", get(counters_.packets_to_guest)},
          {"packets_from_guest", get(counters_.packets_from_guest)},
          {"bytes_to_guest", get(counters_.bytes_to_guest)},
          {"bytes_from_guest", get(counters_.bytes_from_guest)},
          {"socket_reads", get(counters_.socket_reads)},
          {"guest_requests_refused", get(counters_.guest_requests_refused)},
          {"bad_packets", get(counters_.bad_packets)},
          {"resets_dropped", get(counters_.resets_dropped)},
          {"faults", get(counters_.faults)}};
}

}  // namespace wyvern::devices
