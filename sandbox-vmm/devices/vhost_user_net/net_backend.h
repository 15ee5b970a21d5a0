// vhost_user_net/net_backend.h — what a NetDevice can do for a front-end beyond its rings.
#pragma once

#include "net/net_device.h"
#include "vhost_user/backend.h"

namespace wyvern::devices {

// NET_SET_MTU and SEND_RARP. `device` lives as long as the back-end uses the options: it is the one that
// the back-end is given.
vhost_user::BackendOptions NetBackendOptions(NetDevice& device);

}  // namespace wyvern::devices
