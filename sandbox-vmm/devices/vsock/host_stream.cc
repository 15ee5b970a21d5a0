// Streams of bytes: straight between socket and guest memory; only what a slow host does not take is
// copied.
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "vsock/host_socket.h"

namespace wyvern::devices {

bool HostStream::Take(const virtio::Chain& chain, uint32_t length, uint32_t /*flags*/,
                      VsockScratch* scratch) {
  uint32_t written = 0;
  if (kept_.empty() && !WriteDirectly(chain, length, scratch, &written)) {
    return false;
  }
  if (!host_reads()) {
    Drop();
    return true;
  }
  if (written == length) {
    return true;
  }
  uint32_t offset = kVsockHeaderSize + written;
  for (const auto piece : kept_.Extend(length - written)) {
    if (!chain.Read(offset, piece)) {
      return false;
    }
    offset += static_cast<uint32_t>(piece.size());
  }
  return true;
}

bool HostStream::WriteDirectly(const virtio::Chain& chain, uint32_t length, VsockScratch* scratch,
                               uint32_t* written) {
  while (host_reads() && *written < length) {
    scratch->iovecs.clear();
    if (!chain.ReadableIovecs(kVsockHeaderSize + *written, length - *written, &scratch->iovecs)) {
      return false;
    }
    const auto parts =
        std::span(scratch->iovecs).first(std::min<size_t>(scratch->iovecs.size(), IOV_MAX));
    const int64_t sent = Send(parts, 0);
    if (sent < 0) {
      return true;
    }
    *written += static_cast<uint32_t>(sent);
  }
  return true;
}

void HostStream::Flush() {
  while (host_reads() && !kept_.empty()) {
    auto parts = AsIovecs(kept_.Front(kept_.size()));
    const int64_t sent = Send(parts, 0);
    if (sent < 0) {
      break;
    }
    kept_.Consume(static_cast<size_t>(sent));
  }
  if (!host_reads()) {
    Drop();
  }
}

HostSocket::Filled HostStream::Fill(std::span<virtio::Chain> chains, uint32_t credit,
                                    VsockScratch* scratch) {
  const uint32_t room = Room(chains, credit, IOV_MAX, &scratch->iovecs);
  if (room == 0) {
    return {};
  }
  int flags = 0;
  const int64_t got = Receive(&scratch->iovecs, &flags);
  if (got > 0) {
    // Less than asked for: the socket is empty (epoll(7), questions), unless descriptors that came with the
    // bytes, for which there is no room, ended the read (unix(7), SCM_RIGHTS).
    const bool more = got == room || (flags & MSG_CTRUNC) != 0;
    return {.bytes = static_cast<uint32_t>(got),
            .full = got == room,
            .outcome = more ? Outcome::kMore : Outcome::kBlocked};
  }
  return {.outcome = got == -EAGAIN ? Outcome::kBlocked : Outcome::kEnded};
}

}  // namespace wyvern::devices
