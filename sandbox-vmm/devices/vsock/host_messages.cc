// Messages: each is handed on whole, to the host when its last packet is here, to the guest in as
// many packets as its credit and its buffers make of it.
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "vsock/host_socket.h"

namespace wyvern::devices {

namespace {

constexpr uint8_t kMoreBits = 0x80;

}  // namespace

// The end of a record travels as MSG_EOR, which Linux's unix sockets take and do not pass on.
bool HostMessages::Take(const virtio::Chain& chain, uint32_t length, uint32_t flags,
                        VsockScratch* scratch) {
  if (!host_reads()) {
    Drop();
    return true;
  }
  const bool ends = (flags & kEndOfMessage) != 0;
  const bool of_record = (flags & kEndOfRecord) != 0;
  if (ends && length > 0 && kept_.empty()) {
    // The common case: a message in one packet, straight from guest memory.
    scratch->iovecs.clear();
    if (!chain.ReadableIovecs(kVsockHeaderSize, length, &scratch->iovecs)) {
      return false;
    }
    if (scratch->iovecs.size() <= IOV_MAX &&
        Send(scratch->iovecs, of_record ? MSG_EOR : 0) != -EAGAIN) {
      return true;
    }
  }
  if (!Keep(chain, length)) {
    return false;
  }
  if (!ends) {
    // All that it may send is the beginning of one message: its end cannot come any more.
    return unfinished_ < limit_;
  }
  PutEnd(of_record);
  Flush();
  return true;
}

bool HostMessages::Keep(const virtio::Chain& chain, uint32_t length) {
  uint32_t offset = kVsockHeaderSize;
  for (const auto piece : kept_.Extend(length)) {
    if (!chain.Read(offset, piece)) {
      return false;
    }
    offset += static_cast<uint32_t>(piece.size());
  }
  unfinished_ += length;
  return true;
}

// A message without a byte is none: on a unix socket it could not be told from the end.
void HostMessages::PutEnd(bool of_record) {
  if (unfinished_ == 0) {
    return;
  }
  uint64_t rest = uint64_t{unfinished_} << 1U | (of_record ? 1U : 0U);
  for (bool more = true; more;) {
    const auto bits = static_cast<uint8_t>(rest & 0x7fU);
    rest >>= 7U;
    more = rest != 0;
    ends_.Extend(1)[0][0] = std::byte{static_cast<uint8_t>(more ? bits | kMoreBits : bits)};
  }
  unfinished_ = 0;
}

HostMessages::End HostMessages::NextEnd() const {
  uint64_t value = 0;
  size_t count = 0;
  for (const auto piece : ends_.Front(5)) {
    for (const std::byte part : piece) {
      const auto bits = std::to_integer<uint8_t>(part);
      value |= uint64_t{bits & 0x7fU} << (7U * count);
      ++count;
      if ((bits & kMoreBits) == 0) {
        return {.length = static_cast<uint32_t>(value >> 1U),
                .of_record = (value & 1U) != 0,
                .encoded = count};
      }
    }
  }
  return {};
}

void HostMessages::Flush() {
  while (host_reads() && !ends_.empty()) {
    const End end = NextEnd();
    auto parts = AsIovecs(kept_.Front(end.length));
    if (Send(parts, end.of_record ? MSG_EOR : 0) == -EAGAIN) {
      return;
    }
    kept_.Consume(end.length);
    ends_.Consume(end.encoded);
  }
  if (!host_reads()) {
    Drop();
  }
}

void HostMessages::Drop() {
  kept_.Clear();
  ends_.Clear();
  unfinished_ = 0;
}

void HostMessages::Abandon() {
  HostSocket::Abandon();
  waiting_.Clear();
}

HostSocket::Filled HostMessages::FillFromWaiting(std::span<virtio::Chain> chains, uint32_t credit) {
  Filled filled;
  for (virtio::Chain& chain : chains) {
    const uint32_t part = std::min({PayloadRoom(chain), credit - filled.bytes, waiting()});
    if (part == 0) {
      break;
    }
    uint32_t offset = kVsockHeaderSize;
    for (const auto piece : waiting_.Front(part)) {
      // Memory that cannot be written is the driver's loss.
      (void)chain.Write(offset, piece);
      offset += static_cast<uint32_t>(piece.size());
    }
    waiting_.Consume(part);
    filled.bytes += part;
  }
  filled.flags = waiting_.empty() ? waiting_flags_ : 0;
  return filled;
}

// One call reads a message of any length: what the guest has no room for comes into the overflow,
// and waits.
HostSocket::Filled HostMessages::Fill(std::span<virtio::Chain> chains, uint32_t credit,
                                      VsockScratch* scratch) {
  if (!waiting_.empty()) {
    return FillFromWaiting(chains, credit);
  }
  const uint32_t room = Room(chains, credit, IOV_MAX - 1, &scratch->iovecs);
  if (room == 0) {
    return {};
  }
  scratch->overflow.resize(kMaxHostMessage);
  scratch->iovecs.push_back(
      {.iov_base = scratch->overflow.data(), .iov_len = scratch->overflow.size()});
  int flags = MSG_TRUNC;
  const int64_t got = Receive(&scratch->iovecs, &flags);
  if (got <= 0) {
    return {.outcome = got == -EAGAIN ? Outcome::kBlocked : Outcome::kEnded};
  }
  if (got > kMaxHostMessage) {
    return {.outcome = Outcome::kTooLong};
  }
  const uint32_t end_flags = kEndOfMessage | ((flags & MSG_EOR) != 0 ? kEndOfRecord : 0);
  const auto length = static_cast<uint32_t>(got);
  if (length <= room) {
    return {.bytes = length, .flags = end_flags};
  }
  waiting_flags_ = end_flags;
  std::span<const std::byte> rest = std::span(scratch->overflow).first(length - room);
  for (const auto piece : waiting_.Extend(rest.size())) {
    std::ranges::copy(rest.first(piece.size()), piece.begin());
    rest = rest.subspan(piece.size());
  }
  return {.bytes = room, .full = true};
}

}  // namespace wyvern::devices
