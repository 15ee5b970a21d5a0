// vhost_user_net/testing/net_frontend.h — the front-end for a network device that a test's back-end
// serves (DeviceRig's FrontendMaker).
#pragma once

#include <array>
#include <memory>
#include <span>
#include <utility>

#include "base/check.h"
#include "vhost_user_net/vhost_user_net_device.h"

namespace wyvern::devices::testing {

// Its interface and its pairs, rings as large.
inline VhostUserNetOptions NetFrontendOptions(UniqueFd socket, virtio::VirtioDevice& device) {
  NetConfigLayout config;
  device.ReadConfig(0, std::as_writable_bytes(std::span(&config, 1)));
  VhostUserNetOptions options;
  options.worker.name = "vhost-user-net";
  options.socket = std::move(socket);
  options.interface = {
      .mac = config.mac, .mtu = config.mtu, .speed_mbit = config.speed, .duplex = config.duplex};
  options.pairs = config.max_virtqueue_pairs;
  options.queue_size = device.traits().queue_sizes.front();
  return options;
}

inline std::unique_ptr<virtio::VirtioDevice> MakeNetFrontend(UniqueFd socket,
                                                             virtio::VirtioDevice& device) {
  auto made = VhostUserNetDevice::Create(NetFrontendOptions(std::move(socket), device));
  WV_CHECK(made.has_value());
  return *std::move(made);
}

}  // namespace wyvern::devices::testing
