// net/net_header.h — the header in front of a packet, judged in both directions. No I/O.
// Spec:    VIRTIO 1.4 §5.1.9.2 (transmission), §5.1.9.4 (reception).
// Trust:   the driver's header is hostile; what passes here is accepted by Linux's tap as well. The
//          tap's header is honest, but may be of a time when another driver ran.
#pragma once

#include <cstdint>
#include <optional>

#include <tl/expected.hpp>

#include "net/net_abi.h"

namespace wyvern::devices {

enum class TxFault : uint8_t {
  kLength = 1,        // no Ethernet header, or more than a packet can have
  kChecksum = 2,      // the field to fill in is not inside the packet
  kSegmentation = 3,  // a kind that was not negotiated, or sizes that make no sense
};

// The header that goes to the tap for what the driver wrote; `length`: bytes of the packet behind
// it.
tl::expected<NetHeader, TxFault> CheckTransmitHeader(const NetHeader& driver, uint32_t length,
                                                     uint64_t features);

// The header that the driver gets, less num_buffers; nothing: this driver must not get such a
// packet. `offloads`: the GUEST_ features that are on.
std::optional<NetHeader> CheckReceiveHeader(const NetHeader& tap, uint64_t offloads);

// TUN_F_* for GUEST_ features. The kernel takes segments only with checksums, ECN only with TSO, and
// both kinds of USO or none.
uint32_t TunOffloads(uint64_t offloads);

// Features that a tap with these TUN_F_* can serve.
uint64_t TapFeatures(uint32_t tun_offloads);

}  // namespace wyvern::devices
