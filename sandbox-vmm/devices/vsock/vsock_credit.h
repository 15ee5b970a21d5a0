// vsock/vsock_credit.h — how much each side of a connection may send: arithmetic, and nothing else.
// Spec:    VIRTIO 1.4 §5.10.6.3.
// Units:   payload bytes; all counters are free-running uint32_t, as on the wire.
// Trust:   what the guest tells may be anything, and change in any direction.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vsock/vsock_packet.h"

namespace wyvern::devices {

class VsockCredit {
 public:
  // `buffer_size`: what we let the guest send ahead. `start`: where all counters begin; 0 but for
  // tests.
  explicit VsockCredit(uint32_t buffer_size, uint32_t start = 0)
      : buffer_size_(buffer_size),
        received_(start),
        forwarded_(start),
        forwarded_told_(start),
        sent_(start),
        peer_forwarded_(start) {}

  uint32_t buffer_size() const { return buffer_size_; }

  // Every packet of the guest tells.
  void PeerTold(const VsockHeader& header) {
    peer_buffer_ = header.buffer_size;
    peer_forwarded_ = header.forwarded;
  }

  // Bytes that the guest has room for. One that claims to have taken more than it was sent, or that
  // has shrunk its buffer below what is in flight, has none.
  uint32_t ToSend() const {
    const uint32_t in_flight = sent_ - peer_forwarded_;
    return in_flight <= peer_buffer_ ? peer_buffer_ - in_flight : 0;
  }

  void Sent(uint32_t bytes) { sent_ += bytes; }

  // False: more than there is room for; nothing is counted then.
  bool Receive(uint32_t bytes) {
    if (bytes > buffer_size_ - held()) {
      return false;
    }
    received_ += bytes;
    return true;
  }

  // Of what was received so many bytes are still here.
  void SetHeld(uint32_t bytes) { forwarded_ = received_ - bytes; }

  uint32_t held() const { return received_ - forwarded_; }

  // The guest stops when its view of our buffer is full: it is told when three quarters of it are
  // free again, as by Linux where that has as much. Each time is an interrupt more.
  bool UpdateDue() const {
    return forwarded_ - forwarded_told_ >= std::max<uint32_t>(buffer_size_ - buffer_size_ / 4, 1);
  }

  // The same for a guest in the middle of a message, of which nothing leaves before its end has
  // come: it is told all that there is before it can run dry.
  bool UpdateDueInMessage() const {
    const uint32_t peers_view = buffer_size_ - (received_ - forwarded_told_);
    return forwarded_ != forwarded_told_ && peers_view <= buffer_size_ / 2;
  }

  void Tell(VsockHeader* header) {
    header->buffer_size = buffer_size_;
    header->forwarded = forwarded_;
    forwarded_told_ = forwarded_;
  }

 private:
  uint32_t buffer_size_;
  // Guest → host.
  uint32_t received_;
  uint32_t forwarded_;
  uint32_t forwarded_told_;
  // Host → guest.
  uint32_t sent_;
  uint32_t peer_buffer_ = 0;
  uint32_t peer_forwarded_;
};

}  // namespace wyvern::devices
