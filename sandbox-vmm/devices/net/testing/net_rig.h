// net/testing/net_rig.h — a network device over a FakeTap: packets from the guest's driver and from
// the host.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "net/net_device.h"
#include "net/testing/fake_tap.h"
#include "testing/device_rig.h"

namespace wyvern::devices::testing {

inline constexpr MacAddress kGuestMac = {0x02, 0, 0, 0, 0, 0x01};
inline constexpr MacAddress kHostMac = {0x02, 0, 0, 0, 0, 0x02};

// An Ethernet frame of `size` bytes with a pattern in it, at least its header.
std::string Frame(size_t size, const MacAddress& destination = kGuestMac, uint16_t type = 0x0800);

// The same with a TCP header at `csum_start`, as far as a device looks.
NetHeader TsoHeader(uint8_t type = kNetGsoTcp4, uint16_t gso_size = 1448);

struct NetPacket {
  NetHeader header;
  std::string bytes;
  uint32_t chains = 1;  // to the guest: buffers that it came in
};

struct NetRigOptions {
  uint16_t pairs = 1;
  uint16_t mtu = 0;
  uint32_t offloads = FakeTap::kAll;
  RateLimiterConfig receive{};
  RateLimiterConfig transmit{};
  // Long by default: a busy machine must not make a test lose packets.
  std::chrono::milliseconds room_wait = std::chrono::seconds(20);
  uint16_t queue_size = 256;
  RigOptions rig{};
};

class NetRig {
 public:
  explicit NetRig(const NetRigOptions& options = {});

  DeviceRig& device() { return *rig_; }

  NetDevice& net() { return *net_; }

  FakeTap& tap() { return *tap_; }

  // Negotiates all but `refused`, sets up queues of `size`.
  void Start(uint64_t refused = 0, uint16_t size = 64) { rig_->Start(refused, size); }

  // The guest's driver.
  uint16_t Offer(uint32_t size, uint16_t pair = 0);
  void OfferMany(int count, uint32_t size, uint16_t pair = 0);
  uint16_t Transmit(std::string_view frame, const NetHeader& header = {}, uint16_t pair = 0);
  // The next packet in the receive queue, put together from its buffers. The first aborts the test
  // when there is none.
  NetPacket Next(uint16_t pair = 0);
  std::optional<NetPacket> NextMaybe(uint16_t pair, std::chrono::milliseconds timeout);
  // VIRTIO_NET_OK or _ERR.
  uint8_t Command(NetClass command_class, uint8_t command, std::string_view data);

  // The host's side of the tap. False: it is full.
  bool HostSend(std::string_view frame, const NetHeader& header = {}, uint16_t pair = 0);
  NetPacket HostReceive(uint16_t pair = 0);
  std::optional<NetPacket> HostReceiveMaybe(uint16_t pair, std::chrono::milliseconds timeout);

  uint64_t counter(std::string_view name) { return rig_->counter(name); }

  // True once the counter has at least that value.
  bool WaitCounter(std::string_view name, uint64_t value);

  uint16_t control_queue() const;

 private:
  FakeTap* tap_ = nullptr;
  NetDevice* net_ = nullptr;
  std::unique_ptr<DeviceRig> rig_;
};

// Bytes of a value, as command data.
template <typename T>
std::string Raw(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

}  // namespace wyvern::devices::testing
