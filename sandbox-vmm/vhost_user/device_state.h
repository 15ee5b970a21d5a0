// vhost_user/device_state.h — what a device has beyond its configuration and its rings, carried
// from one back-end to the next (migration).
// Spec:    vhost-user "Migrating back-end state".
// Shape:   bytes of the device's own format, versioned by it. All rings are stopped meanwhile.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"

namespace wyvern::vhost_user {

class DeviceState {
 public:
  // What is taken from a front-end at most.
  static constexpr size_t kMaxBytes = size_t{64} << 20;

  virtual ~DeviceState() = default;
  virtual Result<std::vector<std::byte>> Save() = 0;
  // Untrusted: what Save gave, through the front-end.
  virtual Result<> Load(std::span<const std::byte> state) = 0;
};

// Of a device that has none (blk, net, rng): says so by an empty state, and takes nothing else.
std::shared_ptr<DeviceState> NoDeviceState();

}  // namespace wyvern::vhost_user
