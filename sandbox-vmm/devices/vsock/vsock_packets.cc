// Packets: from the guest's queue to streams, and from streams to the guest's queue, fairly.
#include "vsock/vsock_device.h"

namespace wyvern::devices {

namespace {

// Packets to the guest in one turn of the loop.
constexpr uint32_t kSendBudget = 128;

void Count(std::atomic<uint64_t>& counter, uint64_t add = 1) {
  counter.fetch_add(add, std::memory_order_relaxed);
}

}  // namespace

void VsockDevice::TakePackets() {
  ActiveQueue* queue = queues_[kFromGuest].get();
  if (queue == nullptr) {
    return;
  }
  queue->Drain([this, queue](virtio::Chain chain) {
    if (const auto header = chain.ReadAs<VsockHeader>(0)) {
      Count(counters_.packets_from_guest);
      OnPacket(*header, chain);
    } else {
      Count(counters_.bad_packets);
    }
    queue->queue().Push(std::move(chain), 0);
    return true;
  });
  SendPackets();
}

void VsockDevice::OnPacket(const VsockHeader& header, const virtio::Chain& chain) {
  if (header.src_cid != options_.guest_cid || header.dst_cid != kHostCid) {
    Count(counters_.bad_packets);  // nobody to answer
    return;
  }
  const auto found = connections_.find(Key({.host = header.dst_port, .guest = header.src_port}));
  if (header.type != kVsockStream || found == connections_.end() ||
      !found->second->request_sent()) {
    RefuseStray(header);
    return;
  }
  VsockConnection& connection = *found->second;
  const uint64_t before = connection.bytes_to_host();
  if (!connection.OnPacket(header, chain, &scratch_)) {
    Count(counters_.bad_packets);
    connection.Reset(Error(Code::kAborted, "the guest broke the stream's rules"));
  }
  Count(counters_.bytes_from_guest, connection.bytes_to_host() - before);
  MakeReady(connection);
  RemoveIfFinished(connection);
}

// No such stream, or a guest that wants to open one: RST, unless it is one itself.
void VsockDevice::RefuseStray(const VsockHeader& header) {
  if (header.operation() == VsockOp::kReset) {
    return;
  }
  Count(header.operation() == VsockOp::kRequest ? counters_.guest_requests_refused
                                                : counters_.bad_packets);
  if (stray_resets_.size() >= kMaxStrayResets) {
    Count(counters_.resets_dropped);
    return;
  }
  VsockHeader answer;
  answer.src_cid = kHostCid;
  answer.dst_cid = options_.guest_cid;
  answer.src_port = header.dst_port;
  answer.dst_port = header.src_port;
  answer.type = header.type;
  answer.op = static_cast<uint16_t>(VsockOp::kReset);
  stray_resets_.push_back(answer);
}

void VsockDevice::MakeReady(VsockConnection& connection) {
  if (!connection.queued && connection.WantsToSend()) {
    connection.queued = true;
    ready_.push_back(Key(connection.ports()));
  }
}

bool VsockDevice::RemoveIfFinished(VsockConnection& connection) {
  if (connection.established() && connection.timer != EventLoop::Token::kNone) {
    worker_->loop().Remove(connection.timer);
    connection.timer = EventLoop::Token::kNone;
  }
  if (!connection.finished()) {
    return false;
  }
  worker_->loop().Remove(connection.timer);
  const uint64_t key = Key(connection.ports());
  if (connection.queued) {
    std::erase(ready_, key);
  }
  connections_.erase(key);
  counters_.connections.store(connections_.size(), std::memory_order_relaxed);
  return true;
}

void VsockDevice::SendPackets() {
  ActiveQueue* queue = queues_[kToGuest].get();
  if (queue == nullptr || queue->broken()) {
    return;
  }
  queue->queue().DisableNotification();
  for (uint32_t i = 0; i < kSendBudget; ++i) {
    if (ready_.empty() && stray_resets_.empty()) {
      queue->Signal();
      return;
    }
    std::optional<virtio::Chain> chain = queue->Pop();
    if (!chain) {
      if (!queue->broken() && queue->queue().EnableNotification()) {
        queue->queue().DisableNotification();
        continue;
      }
      queue->Signal();  // the driver's next buffer brings us back
      return;
    }
    if (chain->writable_length() < kVsockHeaderSize) {
      Count(counters_.bad_packets);
      queue->queue().Push(std::move(*chain), 0);
      continue;
    }
    const uint32_t written = FillNext(*chain);
    if (written == 0) {
      queue->queue().UndoPop(std::move(*chain));
      queue->Signal();
      return;
    }
    Count(counters_.packets_to_guest);
    Count(counters_.bytes_to_guest, written - kVsockHeaderSize);
    queue->queue().Push(std::move(*chain), written);
  }
  queue->Signal();
  queue->RunAgain();
}

uint32_t VsockDevice::FillStrayReset(virtio::Chain& chain) {
  const VsockHeader answer = stray_resets_.front();
  stray_resets_.pop_front();
  return chain.Write(0, std::as_bytes(std::span(&answer, 1))) ? kVsockHeaderSize : 0;
}

// The next packet of the streams in turn; 0 when none of them had one after all.
uint32_t VsockDevice::FillNext(virtio::Chain& chain) {
  if (!stray_resets_.empty()) {
    return FillStrayReset(chain);
  }
  while (!ready_.empty()) {
    const uint64_t key = ready_.front();
    ready_.pop_front();
    VsockConnection& connection = *connections_.at(key);
    connection.queued = false;
    const bool asked_before = connection.request_sent();
    const uint32_t written = connection.FillPacket(chain, options_.guest_cid, &scratch_);
    if (!asked_before && connection.request_sent()) {
      ArmTimer(connection);
    }
    const bool removed = RemoveIfFinished(connection);
    if (written > 0) {
      if (!removed) {
        MakeReady(connection);  // to the end of the line
      }
      return written;
    }
  }
  return 0;
}

}  // namespace wyvern::devices
