#include "vsock/vsock_connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>

#include "base/check.h"
#include "base/log.h"

namespace wyvern::devices {

namespace {

constexpr uint32_t kWatched = EPOLLIN | EPOLLRDHUP | EPOLLET;

}  // namespace

VsockConnection::VsockConnection(EventLoop& loop, Ports ports, std::unique_ptr<HostSocket> host,
                                 uint32_t buffer_size, Connected connected)
    : loop_(loop),
      ports_(ports),
      host_(std::move(host)),
      connected_(std::move(connected)),
      credit_(host_->LimitKept(buffer_size)) {}

VsockConnection::~VsockConnection() {
  CloseSocket();
  Finish(Fail(Code::kCancelled, "the virtual machine is gone"));
}

Result<> VsockConnection::Watch(std::function<void()> on_event) {
  WV_TRY(token_,
         loop_.Add(host_->fd(), kWatched, [this, on_event = std::move(on_event)](uint32_t events) {
           OnSocket(events);
           on_event();
         }));
  return {};
}

// Room in the socket is news only while something waits for it: else whatever the host reads would
// wake us. Asking makes epoll look again, so room that has come meanwhile is not missed.
void VsockConnection::WatchRoom(bool watch) {
  if (watch == room_watched_ || token_ == EventLoop::Token::kNone) {
    return;
  }
  room_watched_ = watch;
  if (auto asked = loop_.Modify(token_, watch ? kWatched | EPOLLOUT : kWatched); !asked) {
    Reset(std::move(asked.error()));
  }
}

// The registration goes first: afterwards the number may belong to another socket.
void VsockConnection::CloseSocket() {
  loop_.Remove(std::exchange(token_, EventLoop::Token::kNone));
  host_->Close();
}

void VsockConnection::Finish(Result<> outcome) {
  if (Connected connected = std::exchange(connected_, nullptr); connected) {
    connected(std::move(outcome));
  }
}

bool VsockConnection::finished() const {
  return state_ == State::kGone && ops_ == 0 && (host_->drained() || !host_->host_reads());
}

bool VsockConnection::OnPacket(const VsockHeader& header, const virtio::Chain& chain,
                               VsockScratch* scratch) {
  if (state_ == State::kGone && header.operation() != VsockOp::kReset) {
    // It has said its last: what the host still has to get of it is not dropped for more words.
    return true;
  }
  credit_.PeerTold(header);
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
      return established() && OnData(header, chain, scratch);
    case VsockOp::kCreditUpdate:
      return established();
    case VsockOp::kCreditRequest:
      ops_ |= kSendCredit;
      return established();
    default:
      return false;
  }
}

// False: after its end, longer than its packet, more than the credit we gave, or no message.
bool VsockConnection::OnData(const VsockHeader& header, const virtio::Chain& chain,
                             VsockScratch* scratch) {
  const uint32_t length = header.length;
  if ((peer_shutdown_ & kShutdownSend) != 0 ||
      length > chain.readable_length() - kVsockHeaderSize || !credit_.Receive(length)) {
    return false;
  }
  total_received_ += length;
  if (!host_->Take(chain, length, header.flags, scratch)) {
    return false;
  }
  Settle();
  return true;
}

// After anything that may have moved bytes to the host: what is gone is credit for the guest, and a
// host that reads no more is told of once.
void VsockConnection::Settle() {
  credit_.SetHeld(host_->kept());
  if (!host_->drained()) {
    WatchRoom(true);
  }
  if (!established()) {
    return;
  }
  if (credit_.UpdateDue() || (host_->in_message() && credit_.UpdateDueInMessage())) {
    ops_ |= kSendCredit;
  }
  if (!host_->host_reads() && (shutdown_ & kShutdownReceive) == 0) {
    shutdown_ |= kShutdownReceive;
    ops_ |= kSendShutdown;
  }
}

// The guest's end of stream reaches the host only after its last byte.
void VsockConnection::FinishHostSide() {
  if (!host_->valid() || !host_->drained()) {
    return;
  }
  if (state_ == State::kGone) {
    CloseSocket();
  } else if ((peer_shutdown_ & kShutdownSend) != 0 && !host_told_end_) {
    host_told_end_ = true;
    shutdown(host_->fd().get(), SHUT_WR);
  }
}

void VsockConnection::HostSendsNoMore() {
  host_sends_ = false;
  readable_ = false;
  if (established() && (shutdown_ & kShutdownSend) == 0) {
    shutdown_ |= kShutdownSend;
    ops_ |= kSendShutdown;
  }
  if (hung_up_) {
    host_->Abandon();
    Settle();
    CloseSocket();
  }
}

bool VsockConnection::OnShutdown(uint32_t flags) {
  peer_shutdown_ |= flags & kShutdownBoth;
  if ((flags & kShutdownReceive) != 0 && host_->valid()) {
    shutdown(host_->fd().get(), SHUT_RD);
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
  if (!host_->valid()) {
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
  end_near_ = end_near_ || (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0 && host_sends_) {
    readable_ = true;
  }
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) {
    // Not as soon as all is written: a host that is slow once is slow again.
    if (host_->drained()) {
      WatchRoom(false);
    }
    host_->Flush();
    Settle();
    FinishHostSide();
  }
}

void VsockConnection::Reset(Error reason) {
  const bool guest_knows = state_ == State::kConnecting || established();
  state_ = State::kGone;
  ops_ = guest_knows ? kSendReset : 0;
  host_->Abandon();
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

bool VsockConnection::DataDue() const {
  return established() && (readable_ || host_->waiting() > 0) && host_sends_ &&
         (peer_shutdown_ & kShutdownReceive) == 0 && credit_.ToSend() > 0;
}

VsockHeader VsockConnection::Header(VsockOp op, uint64_t guest_cid) {
  VsockHeader header;
  header.src_cid = kHostCid;
  header.dst_cid = guest_cid;
  header.src_port = ports_.host;
  header.dst_port = ports_.guest;
  header.type = type();
  header.op = static_cast<uint16_t>(op);
  credit_.Tell(&header);
  ops_ &= static_cast<uint8_t>(~kSendCredit);  // every packet tells
  return header;
}

// Straight from the socket into guest memory, behind where each packet's header goes: one call for
// as many packets as `chains` and the guest's credit allow.
HostSocket::Filled VsockConnection::ReadHost(std::span<virtio::Chain> chains,
                                             VsockScratch* scratch) {
  const HostSocket::Filled filled = host_->Fill(chains, credit_.ToSend(), scratch);
  if (filled.bytes > 0) {
    // Grows fast and forgets slowly: the end of a burst says little about the next one.
    expected_ = filled.full ? std::max(2 * std::min(filled.bytes, kMaxWanted / 2), expected_)
                            : std::max(filled.bytes, expected_ / 2);
  }
  switch (filled.outcome) {
    case HostSocket::Outcome::kMore:
      break;
    case HostSocket::Outcome::kBlocked:
      // The end, once epoll has told of it, is read: it does not tell again.
      readable_ = end_near_ && filled.bytes > 0;
      break;
    case HostSocket::Outcome::kEnded:
      HostSendsNoMore();
      break;
    case HostSocket::Outcome::kTooLong:
      WV_WARN_LIMITED("vsock: a message of more than {} bytes for port {}: connection reset",
                      kMaxHostMessage, ports_.guest);
      Reset(Error(Code::kResourceExhausted, "vsock: the host's message is too long"));
      break;
  }
  return filled;
}

// What goes next; kInvalid: nothing.
VsockOp VsockConnection::NextOp(std::span<virtio::Chain> chains, VsockScratch* scratch,
                                HostSocket::Filled* filled) {
  if ((ops_ & kSendRequest) != 0) {
    ops_ = 0;
    state_ = State::kConnecting;
    return VsockOp::kRequest;
  }
  if ((ops_ & kSendReset) == 0 && DataDue()) {
    *filled = ReadHost(chains, scratch);
  }
  if ((ops_ & kSendReset) != 0) {
    ops_ = 0;
    return VsockOp::kReset;
  }
  if (filled->bytes > 0) {
    credit_.Sent(filled->bytes);
    return VsockOp::kData;
  }
  if ((ops_ & kSendShutdown) != 0) {
    ops_ &= static_cast<uint8_t>(~kSendShutdown);
    return VsockOp::kShutdown;
  }
  return (ops_ & kSendCredit) != 0 ? VsockOp::kCreditUpdate : VsockOp::kInvalid;
}

void VsockConnection::FillPackets(std::span<virtio::Chain> chains, uint64_t guest_cid,
                                  VsockScratch* scratch, std::vector<uint32_t>* written) {
  WV_CHECK(!chains.empty());
  HostSocket::Filled filled;
  const VsockOp op = NextOp(chains, scratch, &filled);
  if (op == VsockOp::kInvalid) {
    return;
  }
  VsockHeader header = Header(op, guest_cid);
  uint32_t payload = op == VsockOp::kData ? filled.bytes : 0;
  for (virtio::Chain& chain : chains) {
    const uint32_t part = std::min(HostSocket::PayloadRoom(chain), payload);
    payload -= part;
    header.length = part;
    if (op == VsockOp::kShutdown) {
      header.flags = shutdown_;
    } else if (payload == 0) {
      header.flags = filled.flags;
    }
    // Memory that cannot be written, where the payload could: the driver's loss.
    const bool whole = chain.Write(0, std::as_bytes(std::span(&header, 1))).has_value();
    written->push_back(whole ? kVsockHeaderSize + part : 0);
    if (payload == 0) {
      return;
    }
  }
}

}  // namespace wyvern::devices
