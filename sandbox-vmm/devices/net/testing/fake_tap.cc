#include "net/testing/fake_tap.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "base/check.h"
#include "base/unix_socket.h"

namespace wyvern::devices::testing {

FakeTap::FakeTap(uint16_t pairs, uint32_t offloads) : queues_(pairs), offered_(offloads) {
  for (TapQueue& queue : queues_) {
    // Records, as a tap has: a short read cuts one.
    auto sockets = MakeSocketPair(SOCK_SEQPACKET | SOCK_NONBLOCK);
    WV_CHECK(sockets.has_value());
    queue.device = std::move(sockets->first);
    queue.host = std::move(sockets->second);
  }
}

Result<> FakeTap::SetOffloads(uint32_t tun_offloads) {
  if (refuse_ || (tun_offloads & ~offered_) != 0) {
    return SysErrorFrom(EINVAL, "SetOffloads");
  }
  current_ = tun_offloads;
  return {};
}

Result<> FakeTap::SetActive(uint16_t pair, bool active) {
  WV_CHECK(pair > 0);
  if ((refuse_ || refuse_pairs_) && active) {
    return SysErrorFrom(EINVAL, "SetActive");
  }
  queues_.at(pair).active = active;
  return {};
}

bool FakeTap::Fails(std::atomic<int>& left) {
  if (left <= 0) {
    return false;
  }
  --left;
  return true;
}

void FakeTap::Clear() {
  send_failures_ = 0;
  receive_failures_ = 0;
  std::byte byte{};
  for (const TapQueue& queue : queues_) {
    for (const UniqueFd* end : {&queue.device, &queue.host}) {
      while (recv(end->get(), &byte, 1, 0) >= 0) {
      }
    }
  }
}

size_t FakeTap::waiting(uint16_t pair) const {
  std::byte byte{};
  for (const UniqueFd* end : {&queues_.at(pair).device, &queues_.at(pair).host}) {
    const ssize_t size = recv(end->get(), &byte, sizeof(byte), MSG_PEEK | MSG_TRUNC);
    if (size > 0) {
      return static_cast<size_t>(size);
    }
  }
  return 0;
}

void FakeTap::NoteParts(size_t parts) {
  WV_CHECK(parts <= 1024);  // IOV_MAX, as the kernel has it
  most_parts_ = std::max(most_parts_.load(), parts);
}

ssize_t FakeTap::Receive(uint16_t pair, std::span<const iovec> parts) {
  ++receives_;
  NoteParts(parts.size());
  if (Fails(receive_failures_)) {
    return -receive_error_;
  }
  const ssize_t got =
      readv(queues_.at(pair).device.get(), parts.data(), static_cast<int>(parts.size()));
  return got < 0 ? -errno : got;
}

ssize_t FakeTap::Send(uint16_t pair, std::span<const iovec> parts) {
  NoteParts(parts.size());
  if (Fails(send_failures_)) {
    return -send_error_;
  }
  const ssize_t sent =
      writev(queues_.at(pair).device.get(), parts.data(), static_cast<int>(parts.size()));
  return sent < 0 ? -errno : sent;
}

}  // namespace wyvern::devices::testing
