// network/scan.h — what a network namespace has that a guest gets: interfaces, addresses, routes, permanent neighbours.
// Shape:   both families; addresses are text (inet_ntop), prefixes "10.1.0.0/16". Interfaces by index. Routes of the main table in an order in
//          which they can be added: those that need no gateway first. The numbers are rtnetlink(7)'s.
// Bounds:  kMax…; beyond them a scan fails: half a network would be found by nobody.
// Left out:silently what the kernel makes by itself, in the guest, too: lo, its fallback tunnels, link-local addresses, addresses and routes
//          that router advertisements bring, routes of addresses; and our own taps. With a reason, in `left_out`: what a guest cannot have.
// Trust:   the kernel; names were chosen by others.
// Threads: any; blocks while the kernel lists four things, on a thread of its own.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"

namespace wyvern::runtime {

inline constexpr size_t kMaxInterfaces = 64;  // those left out with a reason included
inline constexpr size_t kMaxAddresses = 64;   // of an interface
inline constexpr size_t kMaxRoutes = 4096;
inline constexpr size_t kMaxNeighbours = 4096;

using MacAddress = std::array<uint8_t, 6>;

struct InterfaceAddress {
  std::string address;    // with its prefix, which is the peer's where there is one
  std::string peer;       // of a point-to-point link; empty: none
  std::string broadcast;  // IPv4; empty: none
  uint8_t scope = 0;      // RT_SCOPE_*

  bool operator==(const InterfaceAddress&) const = default;
};

struct Interface {
  int index = 0;
  std::string name;  // UTF-8
  std::string kind;  // IFLA_INFO_KIND: "veth"; empty: hardware
  MacAddress mac{};
  uint32_t mtu = 0;  // 68 to kMaxTapMtu
  bool up = false;   // IFF_UP
  bool no_arp = false;
  std::vector<InterfaceAddress> addresses;

  bool operator==(const Interface&) const = default;
};

struct Route {
  std::string destination;
  std::string gateway;    // empty: on the link
  std::string interface;  // empty where `type` has none
  std::string source;     // preferred; empty: the kernel's choice
  uint8_t scope = 0;      // RT_SCOPE_*
  uint32_t metric = 0;
  uint8_t type = 0;      // RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT
  bool on_link = false;  // RTNH_F_ONLINK
  uint32_t mtu = 0;      // RTAX_MTU; 0: none of its own

  bool operator==(const Route&) const = default;
};

struct Neighbour {
  std::string interface;
  std::string address;
  MacAddress mac{};

  bool operator==(const Neighbour&) const = default;
};

struct NetworkScan {
  std::vector<Interface> interfaces;
  std::vector<Route> routes;
  std::vector<Neighbour> neighbours;
  std::vector<std::string>
      left_out;  // "ipvl0: its ipvlan mode …": a line each, for the log; at most 32
};

// RESOURCE_EXHAUSTED: a bound, which the text names. ABORTED: it changed in each of several attempts.
Result<NetworkScan> ScanNetwork(FdRef network_namespace);

// "wv" and the number: the tap of the interface with that index.
std::string TapName(int interface_index);

}  // namespace wyvern::runtime
