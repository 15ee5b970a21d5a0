// hypervisor/published_port.h — a port of the host that leads to a guest with a user network (passt.h).
#pragma once

#include <cstdint>
#include <string>

namespace wyvern::runtime {

struct PublishedPort {
  std::string address;  // of the host, IPv4; empty: all
  uint16_t host = 0;
  uint16_t guest = 0;
  bool udp = false;

  bool operator==(const PublishedPort&) const = default;
};

}  // namespace wyvern::runtime
