// Packets: from the guest's queue to connections, and from connections to the guest's queue, fairly.
#include <algorithm>

#include "vsock/vsock_device.h"

namespace wyvern::devices {

namespace {

// Packets to the guest in one turn of the loop.
constexpr uint32_t kSendBudget = 128;
// Guest buffers that one read of a socket may fill.
constexpr size_t kReadBuffers = 64;
// Connections in turn that are asked when the guest's next buffer has no room for payload.
constexpr uint32_t kStuckTurns = 32;

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
  if (found == connections_.end() || header.type != found->second->type() ||
      !found->second->request_sent()) {
    RefuseStray(header);
    return;
  }
  const Connection connection = found->second;
  const uint64_t before = connection->bytes_to_host();
  if (!connection->OnPacket(header, chain, &scratch_)) {
    Count(counters_.bad_packets);
    connection->Reset(Error(Code::kAborted, "the guest broke the connection's rules"));
  }
  Count(counters_.bytes_from_guest, connection->bytes_to_host() - before);
  Sort(connection);
}

// No such connection, of no type that we know, or a guest that wants to open one: RST, unless it is
// one itself (VIRTIO §5.10.6.4.2).
void VsockDevice::RefuseStray(const VsockHeader& header) {
  if (header.operation() == VsockOp::kReset) {
    return;
  }
  Count(header.operation() == VsockOp::kRequest ? counters_.guest_requests_refused
                                                : counters_.bad_packets);
  AnswerWithReset({.host = header.dst_port, .guest = header.src_port}, header.type);
}

void VsockDevice::AnswerWithReset(VsockConnection::Ports ports, uint16_t type) {
  if (stray_resets_.size() >= kMaxStrayResets) {
    Count(counters_.resets_dropped);
    return;
  }
  VsockHeader answer;
  answer.src_cid = kHostCid;
  answer.dst_cid = options_.guest_cid;
  answer.src_port = ports.host;
  answer.dst_port = ports.guest;
  answer.type = type;
  answer.op = static_cast<uint16_t>(VsockOp::kReset);
  stray_resets_.push_back(answer);
}

void VsockDevice::SendPackets() {
  ActiveQueue* queue = queues_[kToGuest].get();
  if (queue == nullptr || queue->broken() || event_due_ || event_unread_) {
    return;
  }
  queue->queue().DisableNotification();
  for (uint32_t i = 0; i < kSendBudget; ++i) {
    if (list(Place::kReady).empty() && stray_resets_.empty()) {
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

// Chains for `wanted` bytes of one connection: at least one, others as the driver has them. Beside
// others that wait for their turn a quarter has to do.
std::span<virtio::Chain> VsockDevice::Gather(ActiveQueue& queue, uint32_t wanted) {
  const bool alone = list(Place::kReady).size() == 1;
  wanted = std::min(wanted, VsockConnection::kMaxWanted / (alone ? 1 : 4));
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
    room += HostSocket::PayloadRoom(batch_[count]);
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

// The next packets, into batch_ (one chain, more as needed): of the connections in turn, and of stray
// answers every other time, since a guest can ask for these as fast as it likes. None when nobody
// had one after all.
void VsockDevice::FillNext(ActiveQueue& queue) {
  Connections& ready = list(Place::kReady);
  if (!stray_resets_.empty() && (ready.empty() || !stray_was_last_)) {
    stray_was_last_ = true;
    FillStrayReset();
    return;
  }
  stray_was_last_ = false;
  for (uint32_t stuck = 0; written_.empty() && !ready.empty() && stuck < kStuckTurns;) {
    const Connection connection = ready.begin();
    const size_t others = ready.size() - 1;
    FillFrom(connection, queue);
    stuck += written_.empty() && ready.size() > others ? 1 : 0;
  }
  if (written_.empty() && !stray_resets_.empty()) {
    FillStrayReset();
  }
}

void VsockDevice::FillFrom(Connection connection, ActiveQueue& queue) {
  const bool asked_before = connection->request_sent();
  if (!asked_before && !Speaks(connection->type())) {
    connection->Reset(
        Error(Code::kUnavailable, "the guest's driver does not do this type of socket"));
    Sort(connection);
    return;
  }
  const uint64_t reads_before = connection->socket_reads();
  connection->FillPackets(Gather(queue, connection->DataWanted()), options_.guest_cid, &scratch_,
                          &written_);
  Count(counters_.socket_reads, connection->socket_reads() - reads_before);
  if (!asked_before && connection->request_sent()) {
    connection->deadline = std::chrono::steady_clock::now() + options_.connect_timeout;
  }
  if (!Sort(connection) && connection->place == Place::kReady) {
    MoveToEnd(connection, Place::kReady);
  }
  WatchDeadlines();
}

}  // namespace wyvern::devices
