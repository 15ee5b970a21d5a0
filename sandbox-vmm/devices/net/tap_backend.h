// net/tap_backend.h — where packets come from and go to: one descriptor per queue pair. The device
// knows no more of taps than this, so its tests run over sockets.
// Threads: the device's worker, but for what its creation calls.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::devices {

class TapBackend {
 public:
  virtual ~TapBackend() = default;

  virtual uint16_t pairs() const = 0;
  // Readable when a packet waits; writable again after Send said EAGAIN. Never blocks.
  virtual FdRef fd(uint16_t pair) const = 0;

  // TUN_F_* that SetOffloads takes.
  virtual uint32_t offloads() const = 0;
  // What packets from the tap may look like from now on: with partial checksums, as large segments.
  virtual Result<> SetOffloads(uint32_t tun_offloads) = 0;
  // Whether packets are steered to this pair. The first is always active.
  virtual Result<> SetActive(uint16_t pair, bool active) = 0;
  // What the host's side of the link sees; a tap that cannot say stays up.
  virtual void SetCarrier(bool up) = 0;

  // One packet with its header of 12 bytes. Bytes moved, or -errno. A packet that is longer than
  // `parts` is cut: what fills them to the last byte may be one.
  virtual ssize_t Receive(uint16_t pair, std::span<const iovec> parts) = 0;
  virtual ssize_t Send(uint16_t pair, std::span<const iovec> parts) = 0;
};

}  // namespace wyvern::devices
