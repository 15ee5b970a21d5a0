// net/net_abi.h — numbers and wire structures of the network device, and of Linux's tap beside them.
// Spec:    VIRTIO 1.4 §5.1.3 (features), §5.1.4 (configuration), §5.1.9 (header), §5.1.9.5 (control
//          commands).
#pragma once

#include <array>
#include <cstdint>

#include "base/endian.h"

namespace wyvern::devices {

using MacAddress = std::array<uint8_t, 6>;

// Feature bits, VIRTIO §5.1.3. Those of the GUEST_ kind are also the bits of
// CTRL_GUEST_OFFLOADS_SET (§5.1.9.5.9).
inline constexpr uint64_t kNetCsum = uint64_t{1} << 0;
inline constexpr uint64_t kNetGuestCsum = uint64_t{1} << 1;
inline constexpr uint64_t kNetCtrlGuestOffloads = uint64_t{1} << 2;
inline constexpr uint64_t kNetMtu = uint64_t{1} << 3;
inline constexpr uint64_t kNetMac = uint64_t{1} << 5;
inline constexpr uint64_t kNetGuestTso4 = uint64_t{1} << 7;
inline constexpr uint64_t kNetGuestTso6 = uint64_t{1} << 8;
inline constexpr uint64_t kNetGuestEcn = uint64_t{1} << 9;
inline constexpr uint64_t kNetHostTso4 = uint64_t{1} << 11;
inline constexpr uint64_t kNetHostTso6 = uint64_t{1} << 12;
inline constexpr uint64_t kNetHostEcn = uint64_t{1} << 13;
inline constexpr uint64_t kNetMrgRxbuf = uint64_t{1} << 15;
inline constexpr uint64_t kNetStatus = uint64_t{1} << 16;
inline constexpr uint64_t kNetCtrlVq = uint64_t{1} << 17;
inline constexpr uint64_t kNetCtrlRx = uint64_t{1} << 18;
inline constexpr uint64_t kNetCtrlRxExtra = uint64_t{1} << 20;
inline constexpr uint64_t kNetGuestAnnounce = uint64_t{1} << 21;
inline constexpr uint64_t kNetMq = uint64_t{1} << 22;
inline constexpr uint64_t kNetCtrlMacAddr = uint64_t{1} << 23;
inline constexpr uint64_t kNetGuestUso4 = uint64_t{1} << 54;
inline constexpr uint64_t kNetGuestUso6 = uint64_t{1} << 55;
inline constexpr uint64_t kNetHostUso = uint64_t{1} << 56;
inline constexpr uint64_t kNetHashReport = uint64_t{1} << 57;  // never offered
inline constexpr uint64_t kNetRss = uint64_t{1} << 60;         // never offered
inline constexpr uint64_t kNetSpeedDuplex = uint64_t{1} << 63;

inline constexpr uint64_t kNetGuestOffloads =
    kNetGuestCsum | kNetGuestTso4 | kNetGuestTso6 | kNetGuestEcn | kNetGuestUso4 | kNetGuestUso6;

// Those that the control queue is for.
inline constexpr uint64_t kNetControlFeatures =
    kNetCtrlVq | kNetCtrlRx | kNetCtrlRxExtra | kNetCtrlMacAddr | kNetCtrlGuestOffloads;

inline constexpr uint16_t kNetMinMtu = 68;  // VIRTIO §5.1.4.1

// Configuration, VIRTIO §5.1.4; what follows belongs to features that are not offered.
struct NetConfigLayout {
  MacAddress mac{};
  Le16 status = 0;
  Le16 max_virtqueue_pairs = 0;
  Le16 mtu = 0;
  Le32 speed = 0;
  uint8_t duplex = 0;
};

static_assert(sizeof(NetConfigLayout) == 17);

inline constexpr uint16_t kNetLinkUp = 1;
inline constexpr uint16_t kNetAnnounce = 2;
inline constexpr uint32_t kNetSpeedUnknown = 0xffffffff;
inline constexpr uint8_t kNetDuplexFull = 1;
inline constexpr uint8_t kNetDuplexUnknown = 0xff;

// In front of every packet, VIRTIO §5.1.9. Without HASH_REPORT it has always these 12 bytes.
struct NetHeader {
  uint8_t flags = 0;
  uint8_t gso_type = 0;
  Le16 hdr_len = 0;
  Le16 gso_size = 0;
  Le16 csum_start = 0;
  Le16 csum_offset = 0;
  Le16 num_buffers = 0;
};

inline constexpr uint32_t kNetHeaderSize = sizeof(NetHeader);
static_assert(kNetHeaderSize == 12);

inline constexpr uint8_t kNetNeedsCsum = 1;
inline constexpr uint8_t kNetDataValid = 2;
inline constexpr uint8_t kNetGsoNone = 0;
inline constexpr uint8_t kNetGsoTcp4 = 1;
inline constexpr uint8_t kNetGsoUdpFragments = 3;  // UFO, never offered
inline constexpr uint8_t kNetGsoTcp6 = 4;
inline constexpr uint8_t kNetGsoUdp = 5;  // USO
inline constexpr uint8_t kNetGsoEcn = 0x80;

inline constexpr uint32_t kEthernetHeader = 14;
inline constexpr uint32_t kVlanTag = 4;
// Ethernet, IPv6, and the largest IPv6 payload: VIRTIO §5.1.9.3.
inline constexpr uint32_t kNetMaxPacket = 14 + 40 + 65535;

// Control commands, VIRTIO §5.1.9.5.
struct NetCommand {
  uint8_t command_class = 0;
  uint8_t command = 0;
};

static_assert(sizeof(NetCommand) == 2);

enum class NetClass : uint8_t {
  kRx = 0,
  kMac = 1,
  kVlan = 2,
  kAnnounce = 3,
  kMq = 4,
  kOffloads = 5
};

inline constexpr uint8_t kNetRxPromiscuous = 0;
inline constexpr uint8_t kNetRxAllMulticast = 1;
inline constexpr uint8_t kNetRxAllUnicast = 2;
inline constexpr uint8_t kNetRxNoMulticast = 3;
inline constexpr uint8_t kNetRxNoUnicast = 4;
inline constexpr uint8_t kNetRxNoBroadcast = 5;
inline constexpr uint8_t kNetMacTableSet = 0;
inline constexpr uint8_t kNetMacAddrSet = 1;
inline constexpr uint8_t kNetAnnounceAck = 0;
inline constexpr uint8_t kNetMqPairsSet = 0;
inline constexpr uint8_t kNetOffloadsSet = 0;
inline constexpr std::byte kNetOk{0};
inline constexpr std::byte kNetErr{1};

// TUNSETOFFLOAD; the USO bits are those of Linux 6.2, which Debian 12's headers do not have.
inline constexpr uint32_t kTunCsum = 0x01;
inline constexpr uint32_t kTunTso4 = 0x02;
inline constexpr uint32_t kTunTso6 = 0x04;
inline constexpr uint32_t kTunEcn = 0x08;
inline constexpr uint32_t kTunUso4 = 0x20;
inline constexpr uint32_t kTunUso6 = 0x40;
inline constexpr uint32_t kTunUso = kTunUso4 | kTunUso6;

}  // namespace wyvern::devices
