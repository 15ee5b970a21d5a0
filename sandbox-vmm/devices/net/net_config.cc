#include "net/net_config.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "net/net_header.h"

namespace wyvern::devices {

bool IsStation(const MacAddress& mac) {
  return (mac[0] & 1U) == 0 && mac != MacAddress{};
}

Result<> CheckInterface(const NetInterface& interface) {
  if (!IsStation(interface.mac)) {
    return Fail(Code::kInvalidArgument, "a network device's address is that of one station");
  }
  if (interface.mtu != 0 && interface.mtu < kNetMinMtu) {
    return Fail(Code::kInvalidArgument, "a network device's MTU is at least 68");
  }
  return {};
}

Result<> CheckQueueSize(uint16_t size) {
  if (!std::has_single_bit(size) || size > kNetMaxQueueSize) {
    return Fail(Code::kInvalidArgument, "a network queue's size is a power of two, at most 1024");
  }
  return {};
}

uint64_t NetFeatures(const NetInterface& interface, uint16_t pairs, uint32_t tun_offloads) {
  const bool speed =
      interface.speed_mbit != kNetSpeedUnknown || interface.duplex != kNetDuplexUnknown;
  return TapFeatures(tun_offloads) | kNetMac | kNetStatus | kNetMrgRxbuf | kNetCtrlVq | kNetCtrlRx |
         kNetCtrlRxExtra | kNetCtrlMacAddr | kNetGuestAnnounce |
         (interface.mtu != 0 ? kNetMtu : 0) | (pairs > 1 ? kNetMq : 0) |
         (speed ? kNetSpeedDuplex : 0);
}

NetRole NetQueueRole(uint16_t index, uint16_t pairs, uint64_t features) {
  const uint32_t data = (features & kNetMq) != 0 ? 2U * pairs : 2U;
  if (index < data) {
    return index % 2 == 0 ? NetRole::kReceive : NetRole::kTransmit;
  }
  return index == data && (features & kNetCtrlVq) != 0 ? NetRole::kControl : NetRole::kNone;
}

NetConfig::NetConfig(const NetInterface& interface, uint16_t pairs) : interface_(interface) {
  layout_.mac = interface.mac;
  layout_.status = kNetLinkUp;
  layout_.max_virtqueue_pairs = pairs;
  layout_.mtu = interface.mtu;
  layout_.speed = interface.speed_mbit;
  layout_.duplex = interface.duplex;
}

void NetConfig::Read(uint32_t offset, std::span<std::byte> out) const {
  std::ranges::fill(out, std::byte{0});
  if (offset >= sizeof(layout_)) {
    return;
  }
  const std::lock_guard lock(mu_);
  std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&layout_) + offset,
              std::min<size_t>(out.size(), sizeof(layout_) - offset));
}

MacAddress NetConfig::mac() const {
  const std::lock_guard lock(mu_);
  return layout_.mac;
}

void NetConfig::set_mac(const MacAddress& mac) {
  const std::lock_guard lock(mu_);
  layout_.mac = mac;
}

bool NetConfig::SetStatus(uint16_t bit, bool on) {
  const std::lock_guard lock(mu_);
  const uint16_t before = layout_.status.value();
  const auto after = static_cast<uint16_t>(on ? before | bit : before & ~bit);
  layout_.status = after;
  return before != after;
}

bool NetConfig::status(uint16_t bit) const {
  const std::lock_guard lock(mu_);
  return (layout_.status.value() & bit) != 0;
}

}  // namespace wyvern::devices
