#include "net/net_header.h"

#include <algorithm>

namespace wyvern::devices {

namespace {

constexpr uint32_t kTcpHeader = 20;
constexpr uint32_t kTcpChecksumOffset = 16;
constexpr uint32_t kUdpHeader = 8;
constexpr uint32_t kUdpChecksumOffset = 6;

// What a kind of segmentation needs; `features`: any of them must be there.
struct GsoKind {
  uint64_t features = 0;
  uint32_t transport_header = 0;
  uint32_t checksum_offset = 0;
};

GsoKind TransmitKind(uint8_t type) {
  switch (type) {
    case kNetGsoTcp4:
      return {kNetHostTso4, kTcpHeader, kTcpChecksumOffset};
    case kNetGsoTcp6:
      return {kNetHostTso6, kTcpHeader, kTcpChecksumOffset};
    case kNetGsoUdp:
      return {kNetHostUso, kUdpHeader, kUdpChecksumOffset};
    default:
      return {};
  }
}

uint64_t ReceiveFeatures(uint8_t type) {
  switch (type) {
    case kNetGsoTcp4:
      return kNetGuestTso4;
    case kNetGsoTcp6:
      return kNetGuestTso6;
    case kNetGsoUdp:
      return kNetGuestUso4 | kNetGuestUso6;
    default:
      return 0;
  }
}

}  // namespace

tl::expected<NetHeader, TxFault> CheckTransmitHeader(const NetHeader& driver, uint32_t length,
                                                     uint64_t features) {
  if (length < kEthernetHeader || length > kNetMaxPacket) {
    return tl::unexpected(TxFault::kLength);
  }
  NetHeader out;
  // Flags that were not negotiated are flags that we do not know: ignored (§5.1.9.2.2).
  const bool checksum = (features & kNetCsum) != 0 && (driver.flags & kNetNeedsCsum) != 0;
  const uint32_t start = driver.csum_start.value();
  if (checksum) {
    if (start + driver.csum_offset.value() + 2U > length) {
      return tl::unexpected(TxFault::kChecksum);
    }
    out.flags = kNetNeedsCsum;
    out.csum_start = driver.csum_start;
    out.csum_offset = driver.csum_offset;
  }
  if (driver.gso_type == kNetGsoNone) {
    return out;
  }
  const bool ecn = (driver.gso_type & kNetGsoEcn) != 0;
  const auto type = static_cast<uint8_t>(driver.gso_type & ~kNetGsoEcn);
  const GsoKind kind = TransmitKind(type);
  // Segments need a checksum each (§5.1.9.2.1), so without CSUM there is no segmentation.
  if ((features & kind.features) == 0 || !checksum || driver.gso_size.value() == 0 ||
      driver.csum_offset.value() != kind.checksum_offset ||
      start + kind.transport_header > length) {
    return tl::unexpected(TxFault::kSegmentation);
  }
  if (ecn && ((features & kNetHostEcn) == 0 || type == kNetGsoUdp)) {
    return tl::unexpected(TxFault::kSegmentation);
  }
  out.gso_type = driver.gso_type;
  out.gso_size = driver.gso_size;
  // A hint that must not be relied on (§5.1.9.2.2): brought to where it can be true.
  out.hdr_len = static_cast<uint16_t>(
      std::min({std::max<uint32_t>(driver.hdr_len.value(), start + kind.transport_header), length,
                uint32_t{0xffff}}));
  return out;
}

std::optional<NetHeader> CheckReceiveHeader(const NetHeader& tap, uint64_t offloads) {
  NetHeader out;
  const bool checksum = (tap.flags & kNetNeedsCsum) != 0;
  if ((offloads & kNetGuestCsum) != 0) {
    out.flags = tap.flags & (kNetNeedsCsum | kNetDataValid);
  } else if (checksum) {
    return std::nullopt;
  }
  if (checksum) {
    out.csum_start = tap.csum_start;
    out.csum_offset = tap.csum_offset;
  }
  if (tap.gso_type == kNetGsoNone) {
    return out;
  }
  const auto type = static_cast<uint8_t>(tap.gso_type & ~kNetGsoEcn);
  if ((offloads & ReceiveFeatures(type)) == 0 || !checksum || tap.gso_size.value() == 0) {
    return std::nullopt;
  }
  if ((tap.gso_type & kNetGsoEcn) != 0 && (offloads & kNetGuestEcn) == 0) {
    return std::nullopt;
  }
  out.gso_type = tap.gso_type;
  out.gso_size = tap.gso_size;
  out.hdr_len = tap.hdr_len;
  return out;
}

uint32_t TunOffloads(uint64_t offloads) {
  if ((offloads & kNetGuestCsum) == 0) {
    return 0;
  }
  uint32_t flags = kTunCsum;
  flags |= (offloads & kNetGuestTso4) != 0 ? kTunTso4 : 0;
  flags |= (offloads & kNetGuestTso6) != 0 ? kTunTso6 : 0;
  const bool tso = (offloads & (kNetGuestTso4 | kNetGuestTso6)) != 0;
  flags |= tso && (offloads & kNetGuestEcn) != 0 ? kTunEcn : 0;
  const uint64_t uso = kNetGuestUso4 | kNetGuestUso6;
  flags |= (offloads & uso) == uso ? kTunUso : 0;
  return flags;
}

uint64_t TapFeatures(uint32_t tun_offloads) {
  if ((tun_offloads & kTunCsum) == 0) {
    return 0;
  }
  uint64_t features = kNetCsum | kNetGuestCsum | kNetCtrlGuestOffloads;
  features |= (tun_offloads & kTunTso4) != 0 ? kNetHostTso4 | kNetGuestTso4 : 0;
  features |= (tun_offloads & kTunTso6) != 0 ? kNetHostTso6 | kNetGuestTso6 : 0;
  const bool tso = (tun_offloads & (kTunTso4 | kTunTso6)) != 0;  // ECN is of their segments
  features |= tso && (tun_offloads & kTunEcn) != 0 ? kNetHostEcn | kNetGuestEcn : 0;
  const bool uso = (tun_offloads & kTunUso) == kTunUso;
  features |= uso ? kNetHostUso | kNetGuestUso4 | kNetGuestUso6 : 0;
  return features;
}

}  // namespace wyvern::devices
