// agent/network_request.h — SetNetworkRequest of agent.proto, checked, as values that can be compared with what the kernel has.
// Errors:  INVALID_ARGUMENT, the text begins with the entry: "route[3].gateway: …". Nothing of a request with an error is used.
// Trust:   the caller is the host; it is bounded all the same, and names and addresses come from whoever made the pod's interfaces.
// Threads: any.
#pragma once

#include <net/if.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "agent/network_address.h"
#include "base/error.h"
#include "proto/agent.pb.h"

namespace wyvern::agent {

inline constexpr int kMaxInterfaces = 64;
inline constexpr int kMaxAddresses = 64;  // of an interface
inline constexpr int kMaxRoutes = 4096;
inline constexpr int kMaxNeighbours = 4096;
inline constexpr size_t kMaxInterfaceName = IFNAMSIZ - 1;

// The three below are as the kernel shows them, so that equal means: nothing to do. `link` is the kernel's number of the interface; a
// parsed request does not know it (0).
struct LinkAddress {
  int link = 0;
  IpPrefix local = {};  // the prefix is the peer's where there is one
  IpAddress peer = {};
  IpAddress broadcast = {};  // IPv4 only
  uint8_t scope = 0;         // IPv4 only: of IPv6 the address itself says it

  auto operator<=>(const LinkAddress&) const = default;
};

struct Route {
  int link = 0;  // 0 also where the route goes nowhere (blackhole, unreachable, prohibit)
  IpPrefix destination = {};
  IpAddress gateway = {};
  IpAddress source = {};
  uint8_t scope = 0;    // IPv4 only
  uint32_t metric = 0;  // IPv6: never 0, the kernel makes it 1024
  uint8_t type = 0;     // RTN_*
  bool on_link = false;
  uint32_t mtu = 0;

  auto operator<=>(const Route&) const = default;
};

struct Neighbour {
  int link = 0;
  IpAddress address = {};
  MacAddress mac{};

  auto operator<=>(const Neighbour&) const = default;
};

struct WantedInterface {
  MacAddress mac{};
  std::string name;
  uint32_t mtu = 0;
  bool no_arp = false;
  std::vector<LinkAddress> addresses;
};

struct WantedRoute {
  std::string interface;  // empty: it goes nowhere
  Route route;
};

struct WantedNeighbour {
  std::string interface;
  Neighbour neighbour;
};

struct WantedNetwork {
  std::vector<WantedInterface> interfaces;
  std::vector<WantedRoute> routes;
  std::vector<WantedNeighbour> neighbours;
};

// As the kernel's dev_valid_name(), less '%', which would have the kernel choose a number, less control bytes and "lo".
bool IsInterfaceName(std::string_view name);

Result<WantedNetwork> ParseNetwork(const v1::SetNetworkRequest& request);

}  // namespace wyvern::agent
