#include "vhost_user_net/net_backend.h"

namespace wyvern::devices {

vhost_user::BackendOptions NetBackendOptions(NetDevice& device) {
  vhost_user::BackendOptions options;
  options.set_mtu = [&device](uint16_t mtu) { return device.SetMtu(mtu); };
  options.send_rarp = [&device](const MacAddress& mac) { return device.SendRarp(mac); };
  return options;
}

}  // namespace wyvern::devices
