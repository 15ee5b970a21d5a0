#include "vsock/vsock_device.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "virtio/feature_bits.h"

namespace wyvern::devices {

Result<std::unique_ptr<VsockDevice>> VsockDevice::Create(const VsockOptions& options) {
  constexpr uint64_t kLastCid = 0xfffffffe;
  if (options.guest_cid <= kHostCid || options.guest_cid > kLastCid) {
    return Fail(Code::kInvalidArgument,
                fmt::format("vsock: no guest can have CID {}", options.guest_cid));
  }
  WV_TRY(auto worker, StartWorker(options.worker));
  return std::unique_ptr<VsockDevice>(new VsockDevice(options, std::move(worker)));
}

VsockDevice::VsockDevice(const VsockOptions& options, std::unique_ptr<LoopThread> worker)
    : options_(options), worker_(std::move(worker)) {
  traits_.device_id = virtio::kDeviceVsock;
  traits_.features = virtio::kRingFeatures | kVsockFeatureStream | kVsockFeatureSeqpacket |
                     kVsockFeatureNoImpliedStream;
  traits_.queue_sizes = {1024, 1024, 16};
  traits_.config_length = sizeof(uint64_t);
  traits_.name = "vsock";
}

VsockDevice::~VsockDevice() {
  worker_->Call([this] {
    for (auto& queue : queues_) {
      queue.reset();
    }
    connections_.clear();
    for (Connections& connections : lists_) {
      connections.clear();
    }
  });
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
  return ActiveQueue::StartOn(*worker_,
                              {.index = index,
                               .resources = std::move(resources),
                               .features = features,
                               .resume = resume,
                               .device = traits_.name,
                               .on_kick = [this, index] { OnKick(index); },
                               .on_fault =
                                   [this] {
                                     counters_.faults.fetch_add(1, std::memory_order_relaxed);
                                     NeedsReset();
                                   }},
                              [&](std::unique_ptr<ActiveQueue> queue) {
                                features_ = features;
                                queues_[index] = std::move(queue);
                                OnKick(index);
                              });
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
    DropConnections();
    stray_resets_.clear();
    event_due_ = false;
    event_unread_ = false;
  });
}

void VsockDevice::OnKick(uint16_t index) {
  if (index == kToGuest) {
    SendPackets();
  } else if (index == kFromGuest) {
    TakePackets();
  } else if (queues_[kEvents] != nullptr) {
    OnEvents(*queues_[kEvents]);
  }
}

Result<> VsockDevice::ConnectStream(uint32_t port, UniqueFd socket, Connected connected) {
  WV_TRY(std::unique_ptr<HostSocket> host, HostSocket::Create(std::move(socket)));
  // std::function wants copies; the descriptor has one owner.
  auto held = std::make_shared<std::unique_ptr<HostSocket>>(std::move(host));
  worker_->loop().Post([this, port, held, connected = std::move(connected)]() mutable {
    Open(port, std::move(*held), std::move(connected));
  });
  return {};
}

void VsockDevice::ResetTransport() {
  worker_->loop().Post([this] {
    DropConnections();
    stray_resets_.clear();
    event_due_ = true;
    event_unread_ = false;
    OnKick(kEvents);
  });
}

// All that the driver has given, into batch_.
void VsockDevice::TakeEventBuffers(ActiveQueue& queue) {
  queue.queue().DisableNotification();
  for (;;) {
    std::optional<virtio::Chain> chain = queue.Pop();
    if (chain) {
      batch_.push_back(std::move(*chain));
    } else if (!queue.queue().EnableNotification()) {
      return;
    }
  }
}

// A driver gives the event's buffer back when it has dealt with the event (Linux does, and nothing
// else tells): it has, when there are more buffers than were left. Firecracker #5882, #6100: the
// wait begins with the event, not with a pause, and ends with a buffer, not with a notification.
void VsockDevice::OnEvents(ActiveQueue& queue) {
  for (uint16_t turn = 0; turn < traits_.queue_sizes[kEvents]; ++turn) {
    if (!event_due_ && !event_unread_) {
      break;
    }
    TakeEventBuffers(queue);
    const size_t buffers = batch_.size();
    event_unread_ = event_unread_ && buffers <= event_buffers_left_;
    const bool tell = event_due_ && buffers > 0 && !queue.broken();
    while (batch_.size() > (tell ? 1U : 0U)) {
      queue.queue().UndoPop(std::move(batch_.back()));  // the last popped first
      batch_.pop_back();
    }
    if (!tell) {
      break;
    }
    const Le32 transport_reset(0U);  // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET
    const bool written =
        batch_[0].Write(0, std::as_bytes(std::span(&transport_reset, 1))).has_value();
    queue.queue().Push(std::move(batch_[0]), written ? sizeof(transport_reset) : 0);
    batch_.clear();
    event_due_ = !written;
    event_unread_ = written;
    event_buffers_left_ = buffers - 1;
  }
  queue.Signal();
  SendPackets();
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
