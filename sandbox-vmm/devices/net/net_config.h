// net/net_config.h — the configuration space of a network device, and what it is made of.
// Spec:    VIRTIO 1.4 §5.1.4.
// Threads: any.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>

#include "base/error.h"
#include "net/net_abi.h"

namespace wyvern::devices {

inline constexpr uint16_t kNetMaxQueueSize = 1024;
inline constexpr uint16_t kNetControlQueueSize = 64;

struct NetInterface {
  MacAddress mac{};
  uint16_t mtu = 0;  // told to the driver; 0: not
  uint32_t speed_mbit = kNetSpeedUnknown;
  uint8_t duplex = kNetDuplexUnknown;
};

// Of one station: no group, and not nothing.
bool IsStation(const MacAddress& mac);
// INVALID_ARGUMENT: a group address, an MTU below 68 (§5.1.4.1).
Result<> CheckInterface(const NetInterface& interface);
// Of receive and transmit queues. INVALID_ARGUMENT: no power of two, or more than kNetMaxQueueSize.
Result<> CheckQueueSize(uint16_t size);

// What a device over a tap that takes `tun_offloads` offers, less the ring's features.
uint64_t NetFeatures(const NetInterface& interface, uint16_t pairs, uint32_t tun_offloads);

// What queue `index` of a device with `pairs` pairs is for (§5.1.2): without MQ there is one pair,
// and the control queue follows it.
enum class NetRole : uint8_t { kStopped, kReceive, kTransmit, kControl, kNone };
NetRole NetQueueRole(uint16_t index, uint16_t pairs, uint64_t features);

class NetConfig {
 public:
  NetConfig(const NetInterface& interface, uint16_t pairs);

  // Past the end reads as zero.
  void Read(uint32_t offset, std::span<std::byte> out) const;

  MacAddress mac() const;
  void set_mac(const MacAddress& mac);
  // One of the status bits. True if it changed.
  bool SetStatus(uint16_t bit, bool on);
  bool status(uint16_t bit) const;

  // As the host has configured it.
  const NetInterface& interface() const { return interface_; }

 private:
  const NetInterface interface_;
  mutable std::mutex mu_;
  NetConfigLayout layout_;  // guarded by mu_
};

}  // namespace wyvern::devices
