#include "vsock/vsock_connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "base/check.h"

namespace wyvern::devices {

VsockConnection::VsockConnection(EventLoop& loop, Ports ports, UniqueFd socket,
                                 uint32_t buffer_size, Connected connected)
    : loop_(loop),
      ports_(ports),
      socket_(std::move(socket)),
      buffer_size_(buffer_size),
      connected_(std::move(connected)) {}

VsockConnection::~VsockConnection() {
  CloseSocket();
  Finish(Fail(Code::kCancelled, "the virtual machine is gone"));
}

Result<> VsockConnection::Watch(std::function<void()> on_event) {
  WV_TRY(token_, loop_.Add(socket_, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                           [this, on_event = std::move(on_event)](uint32_t events) {
                             OnSocket(events);
                             on_event();
                           }));
  return {};
}

// The registration goes first: afterwards the number may belong to another socket.
void VsockConnection::CloseSocket() {
  loop_.Remove(std::exchange(token_, EventLoop::Token::kNone));
  socket_.Reset();
}

void VsockConnection::Finish(Result<> outcome) {
  if (Connected connected = std::exchange(connected_, nullptr); connected) {
    connected(std::move(outcome));
  }
}

bool VsockConnection::finished() const {
  return state_ == State::kGone && ops_ == 0 && (pending_.empty() || !host_reads_);
}

bool VsockConnection::OnPacket(const VsockHeader& header, const virtio::Chain& chain,
                               std::vector<iovec>* scratch) {
  if (state_ == State::kGone && header.operation() != VsockOp::kReset) {
    // It has said its last: what the host still has to get of it is not dropped for more words.
    return true;
  }
  peer_buffer_ = header.buffer_size;
  peer_forwarded_ = header.forwarded;
  switch (header.operation()) {
    case VsockOp::kResponse:
      if (state_ != State::kConnecting) {
        return false;
      }
      state_ = State::kEstablished;
      Finish({});
      return true;
    case VsockOp::kReset:
      ops_ = 0;
      GuestGone(Error(Code::kUnavailable, "nobody listens on this port in the guest"));
      return true;
    case VsockOp::kShutdown:
      return established() && OnShutdown(header.flags);
    case VsockOp::kData:
      return established() && OnData(header.length, chain, scratch);
    case VsockOp::kCreditUpdate:
      return established();
    case VsockOp::kCreditRequest:
      ops_ |= kSendCredit;
      return established();
    default:
      return false;
  }
}

bool VsockConnection::OnData(uint32_t length, const virtio::Chain& chain,
                             std::vector<iovec>* scratch) {
  if ((peer_shutdown_ & kShutdownSend) != 0 ||
      length > chain.readable_length() - kVsockHeaderSize ||
      length > buffer_size_ - (received_ - forwarded_)) {
    return false;  // after its end, longer than its packet, or more than the credit we gave
  }
  received_ += length;
  total_received_ += length;
  if (!host_reads_) {
    Forwarded(length);  // the guest will learn it from our SHUTDOWN
    return true;
  }
  uint32_t written = 0;
  if (pending_.empty() && !WriteDirectly(length, chain, scratch, &written)) {
    return false;
  }
  Forwarded(written);
  if (!host_reads_) {
    Forwarded(length - written);
    return true;
  }
  if (written == length) {
    return true;
  }
  return chain.Read(kVsockHeaderSize + written, pending_.Extend(length - written)).has_value();
}

// Straight from guest memory into the socket, as much as it takes now.
bool VsockConnection::WriteDirectly(uint32_t length, const virtio::Chain& chain,
                                    std::vector<iovec>* scratch, uint32_t* written) {
  while (*written < length) {
    scratch->clear();
    if (!chain.ReadableIovecs(kVsockHeaderSize + *written, length - *written, scratch)) {
      return false;
    }
    msghdr message{};
    message.msg_iov = scratch->data();
    message.msg_iovlen = std::min<size_t>(scratch->size(), IOV_MAX);
    const ssize_t sent = sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) {
        continue;
      }
      if (errno != EAGAIN) {
        HostReadsNoMore();
      }
      return true;
    }
    *written += static_cast<uint32_t>(sent);
  }
  return true;
}

void VsockConnection::Flush() {
  while (host_reads_ && !pending_.empty()) {
    const auto bytes = pending_.front();
    const ssize_t sent =
        send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) {
        continue;
      }
      if (errno != EAGAIN) {
        HostReadsNoMore();
      }
      break;
    }
    pending_.Consume(static_cast<size_t>(sent));
    Forwarded(static_cast<uint32_t>(sent));
  }
  if (pending_.empty()) {
    FinishHostSide();
  }
}

// The guest's end of stream reaches the host only after its last byte.
void VsockConnection::FinishHostSide() {
  if (!socket_.valid() || !pending_.empty()) {
    return;
  }
  if (state_ == State::kGone) {
    CloseSocket();
  } else if ((peer_shutdown_ & kShutdownSend) != 0 && !host_told_end_) {
    host_told_end_ = true;
    shutdown(socket_.get(), SHUT_WR);
  }
}

void VsockConnection::Forwarded(uint32_t count) {
  forwarded_ += count;
  // The guest stops when its view of our buffer is full: tell it in time.
  if (state_ == State::kEstablished && forwarded_ - forwarded_told_ >= buffer_size_ / 2) {
    ops_ |= kSendCredit;
  }
}

void VsockConnection::HostReadsNoMore() {
  host_reads_ = false;
  const auto lost = static_cast<uint32_t>(pending_.size());
  pending_.Clear();
  Forwarded(lost);
  if (state_ == State::kEstablished && (shutdown_ & kShutdownReceive) == 0) {
    shutdown_ |= kShutdownReceive;
    ops_ |= kSendShutdown;
  }
}

void VsockConnection::HostSendsNoMore() {
  host_sends_ = false;
  readable_ = false;
  if (state_ == State::kEstablished && (shutdown_ & kShutdownSend) == 0) {
    shutdown_ |= kShutdownSend;
    ops_ |= kSendShutdown;
  }
  if (hung_up_) {
    HostReadsNoMore();
    CloseSocket();
  }
}

bool VsockConnection::OnShutdown(uint32_t flags) {
  peer_shutdown_ |= flags & kShutdownBoth;
  if ((flags & kShutdownReceive) != 0 && socket_.valid()) {
    shutdown(socket_.get(), SHUT_RD);
    readable_ = false;
  }
  if (peer_shutdown_ == kShutdownBoth) {
    ops_ = kSendReset;
    state_ = State::kGone;
  }
  FinishHostSide();
  return true;
}

void VsockConnection::OnSocket(uint32_t events) {
  if (!socket_.valid()) {
    return;
  }
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
    hung_up_ = true;
    if (state_ == State::kWaiting) {
      Reset(Error(Code::kUnavailable, "the host gave up before the guest's driver was there"));
      return;
    }
    // Nobody will read the end from the socket: it was read before, or the guest wants nothing.
    if (established() && (!host_sends_ || (peer_shutdown_ & kShutdownReceive) != 0)) {
      HostSendsNoMore();
      return;
    }
  }
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0 && host_sends_) {
    readable_ = true;
  }
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) {
    Flush();
  }
}

void VsockConnection::Reset(Error reason) {
  const bool guest_knows = state_ == State::kConnecting || state_ == State::kEstablished;
  state_ = State::kGone;
  ops_ = guest_knows ? kSendReset : 0;
  pending_.Clear();
  CloseSocket();
  Finish(tl::unexpected(std::move(reason)));
}

void VsockConnection::GuestGone(Error reason) {
  state_ = State::kGone;
  ops_ = 0;
  readable_ = false;
  Finish(tl::unexpected(std::move(reason)));
  FinishHostSide();
}

uint32_t VsockConnection::Credit() const {
  // A guest that claims to have taken more than it was sent gets nothing.
  const uint32_t in_flight = sent_ - peer_forwarded_;
  return in_flight <= peer_buffer_ ? peer_buffer_ - in_flight : 0;
}

bool VsockConnection::DataDue() const {
  return established() && readable_ && host_sends_ && (peer_shutdown_ & kShutdownReceive) == 0 &&
         Credit() > 0;
}

bool VsockConnection::WantsToSend() const {
  return ops_ != 0 || DataDue();
}

VsockHeader VsockConnection::Header(VsockOp op, uint64_t guest_cid) {
  VsockHeader header;
  header.src_cid = kHostCid;
  header.dst_cid = guest_cid;
  header.src_port = ports_.host;
  header.dst_port = ports_.guest;
  header.op = static_cast<uint16_t>(op);
  header.buffer_size = buffer_size_;
  header.forwarded = forwarded_;
  forwarded_told_ = forwarded_;
  ops_ &= static_cast<uint8_t>(~kSendCredit);  // every packet tells
  return header;
}

// Straight from the socket into guest memory, behind where each packet's header goes: one call for
// as many packets as `chains` and the guest's credit allow.
uint32_t VsockConnection::ReceiveInto(std::span<virtio::Chain> chains,
                                      std::vector<iovec>* scratch) {
  const uint32_t credit = Credit();
  uint32_t room = 0;
  scratch->clear();
  for (const virtio::Chain& chain : chains) {
    const uint32_t part = std::min(PayloadRoom(chain), credit - room);
    if (part == 0 || !chain.WritableIovecs(kVsockHeaderSize, part, scratch)) {
      break;
    }
    room += part;
  }
  if (room == 0) {
    return 0;
  }
  msghdr message{};
  message.msg_iov = scratch->data();
  message.msg_iovlen = std::min<size_t>(scratch->size(), IOV_MAX);
  ssize_t got = 0;
  do {
    ++socket_reads_;
    got = recvmsg(socket_.get(), &message, MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got > 0) {
    const auto count = static_cast<uint32_t>(got);
    // Grows fast and forgets slowly: the end of a burst says little about the next one.
    expected_ = count == room ? std::max(2 * std::min(count, kMaxWanted / 2), expected_)
                              : std::max(count, expected_ / 2);
    return count;
  }
  readable_ = false;
  if (got == 0 || errno != EAGAIN) {
    HostSendsNoMore();
  }
  return 0;
}

// What goes next; kInvalid: nothing.
VsockOp VsockConnection::NextOp(std::span<virtio::Chain> chains, std::vector<iovec>* scratch,
                                uint32_t* payload) {
  if ((ops_ & kSendReset) != 0) {
    ops_ = 0;
    return VsockOp::kReset;
  }
  if ((ops_ & kSendRequest) != 0) {
    ops_ = 0;
    state_ = State::kConnecting;
    return VsockOp::kRequest;
  }
  *payload = DataDue() ? ReceiveInto(chains, scratch) : 0;
  if (*payload > 0) {
    sent_ += *payload;
    total_sent_ += *payload;
    return VsockOp::kData;
  }
  if ((ops_ & kSendShutdown) != 0) {
    ops_ &= static_cast<uint8_t>(~kSendShutdown);
    return VsockOp::kShutdown;
  }
  return (ops_ & kSendCredit) != 0 ? VsockOp::kCreditUpdate : VsockOp::kInvalid;
}

void VsockConnection::FillPackets(std::span<virtio::Chain> chains, uint64_t guest_cid,
                                  std::vector<iovec>* scratch, std::vector<uint32_t>* written) {
  WV_CHECK(!chains.empty());
  uint32_t payload = 0;
  const VsockOp op = NextOp(chains, scratch, &payload);
  if (op == VsockOp::kInvalid) {
    return;
  }
  VsockHeader header = Header(op, guest_cid);
  header.flags = op == VsockOp::kShutdown ? shutdown_ : 0;
  for (virtio::Chain& chain : chains) {
    const uint32_t part = std::min(PayloadRoom(chain), payload);
    payload -= part;
    header.length = part;
    // Memory that cannot be written, where the payload could: the driver's loss.
    const bool whole = chain.Write(0, std::as_bytes(std::span(&header, 1))).has_value();
    written->push_back(whole ? kVsockHeaderSize + part : 0);
    if (payload == 0) {
      return;
    }
  }
}

}  // namespace wyvern::devices
