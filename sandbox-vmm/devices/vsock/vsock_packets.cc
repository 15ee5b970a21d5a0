// Packets: from the guest's queue to streams, and from streams to the guest's queue, fairly.
#include <algorithm>

#include "vsock/vsock_device.h"

namespace wyvern::devices {

namespace {

// Packets to the guest in one turn of the loop.
constexpr uint32_t kSendBudget = 128;
// Guest buffers that one read of a socket may fill.
constexpr size_t kReadBuffers = 64;

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
    batch_.push_back(std::move(*chain));
    FillNext(*queue);
    const auto filled = static_cast<uint32_t>(written_.size());
    GiveBack(queue->queue());
    if (filled == 0) {
      queue->Signal();
      return;
    }
    i += filled - 1;
  }
  queue->Signal();
  queue->RunAgain();
}

// What was filled to the driver, the others back to where they were taken from.
void VsockDevice::GiveBack(virtio::Queue& queue) {
  uint64_t bytes = 0;
  for (const uint32_t written : written_) {
    bytes += written - std::min(written, kVsockHeaderSize);
  }
  Count(counters_.packets_to_guest, written_.size());
  Count(counters_.bytes_to_guest, bytes);
  for (size_t i = 0; i < written_.size(); ++i) {
    queue.Push(std::move(batch_[i]), written_[i]);
  }
  while (batch_.size() > written_.size()) {
    queue.UndoPop(std::move(batch_.back()));  // the last popped first
    batch_.pop_back();
  }
  batch_.clear();
  written_.clear();
}

// Chains for `wanted` bytes of one stream: at least one, others as the driver has them. Beside a
// stream that waits for its turn a quarter has to do.
std::span<virtio::Chain> VsockDevice::Gather(ActiveQueue& queue, uint32_t wanted) {
  wanted = std::min(wanted, VsockConnection::kMaxWanted / (ready_.empty() ? 1 : 4));
  uint32_t room = 0;
  size_t buffers = 0;
  size_t count = 0;
  do {
    if (count == batch_.size()) {
      std::optional<virtio::Chain> chain = queue.Pop();
      if (!chain) {
        break;
      }
      if (chain->writable_length() <= kVsockHeaderSize) {
        queue.queue().UndoPop(std::move(*chain));  // its turn comes when it is the first
        break;
      }
      batch_.push_back(std::move(*chain));
    }
    room += VsockConnection::PayloadRoom(batch_[count]);
    buffers += batch_[count].writable().size();
    ++count;
  } while (room < wanted && buffers < kReadBuffers);
  return std::span(batch_).first(count);
}

void VsockDevice::FillStrayReset() {
  const VsockHeader answer = stray_resets_.front();
  stray_resets_.pop_front();
  const bool whole = batch_[0].Write(0, std::as_bytes(std::span(&answer, 1))).has_value();
  written_.push_back(whole ? kVsockHeaderSize : 0);
}

// The next packets of one of the streams in turn, into batch_ (one chain, more as needed); none when
// no stream had one after all.
void VsockDevice::FillNext(ActiveQueue& queue) {
  if (!stray_resets_.empty()) {
    FillStrayReset();
    return;
  }
  while (!ready_.empty()) {
    const uint64_t key = ready_.front();
    ready_.pop_front();
    VsockConnection& connection = *connections_.at(key);
    connection.queued = false;
    const bool asked_before = connection.request_sent();
    const uint64_t reads_before = connection.socket_reads();
    connection.FillPackets(Gather(queue, connection.DataWanted()), options_.guest_cid, &scratch_,
                           &written_);
    Count(counters_.socket_reads, connection.socket_reads() - reads_before);
    if (!asked_before && connection.request_sent()) {
      ArmTimer(connection);
    }
    const bool removed = RemoveIfFinished(connection);
    if (!written_.empty()) {
      if (!removed) {
        MakeReady(connection);  // to the end of the line
      }
      return;
    }
  }
}

}  // namespace wyvern::devices
