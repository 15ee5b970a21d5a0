// vsock/vsock_packet.h — the packet header of virtio sockets.
// Spec:    VIRTIO 1.4 §5.10.6.
#pragma once

#include <cstdint>

#include "base/endian.h"

namespace wyvern::devices {

inline constexpr uint64_t kHostCid = 2;  // VIRTIO §5.10.4

// VIRTIO §5.10.3
inline constexpr uint64_t kVsockFeatureStream = 1;
inline constexpr uint64_t kVsockFeatureSeqpacket = 2;
inline constexpr uint64_t kVsockFeatureNoImpliedStream = 4;

enum class VsockOp : uint16_t {
  kInvalid = 0,
  kRequest = 1,
  kResponse = 2,
  kReset = 3,
  kShutdown = 4,
  kData = 5,
  kCreditUpdate = 6,
  kCreditRequest = 7,
};

// VIRTIO §5.10.6.2
inline constexpr uint16_t kVsockStream = 1;
inline constexpr uint16_t kVsockSeqpacket = 2;

// Flags of kShutdown, VIRTIO §5.10.6.5.
inline constexpr uint32_t kShutdownReceive = 1;  // will not receive any more
inline constexpr uint32_t kShutdownSend = 2;     // will not send any more
inline constexpr uint32_t kShutdownBoth = kShutdownReceive | kShutdownSend;

// Flags of kData of a seqpacket socket, VIRTIO §5.10.6.6.1.
inline constexpr uint32_t kEndOfMessage = 1;
inline constexpr uint32_t kEndOfRecord = 2;

struct VsockHeader {
  Le64 src_cid = 0;
  Le64 dst_cid = 0;
  Le32 src_port = 0;
  Le32 dst_port = 0;
  Le32 length = 0;
  Le16 type = kVsockStream;
  Le16 op = 0;
  Le32 flags = 0;
  Le32 buffer_size = 0;  // buf_alloc: what the sender can buffer
  Le32 forwarded = 0;    // fwd_cnt: bytes the sender's user has taken, free-running

  VsockOp operation() const { return static_cast<VsockOp>(op.value()); }
};

inline constexpr uint32_t kVsockHeaderSize = sizeof(VsockHeader);
static_assert(kVsockHeaderSize == 44);

}  // namespace wyvern::devices
