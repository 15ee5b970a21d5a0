// network/link.h — a network interface as rtnetlink(7) tells of it, and whether a guest can have it.
// Method:  a guest gets an interface by tc: what arrives on it is redirected to a tap, what the guest sends is sent by it (connect.h). That needs
//          Ethernet frames, a MAC of its own, and that nobody else in the namespace lives by the interface's packets.
//          So: veth, macvlan, ipvlan in mode L2, bridges, taps of others, vlan, bond, dummy, netkit in mode L2, vxlan, hardware.
#pragma once

#include <span>
#include <string>

#include "network/scan.h"

namespace wyvern::runtime {

inline constexpr uint32_t kMaxTapMtu = 65521;  // Linux tun.c: 65535 less the Ethernet header

struct Link {
  Interface interface;  // without addresses
  unsigned flags = 0;   // IFF_*
  unsigned type = 0;    // ARPHRD_*
  int lower = 0;        // the interface of this namespace that it is on top of; 0: none
  int controller = 0;   // the bridge, bond or vrf that it is a port of; 0: none
  uint16_t ipvlan_mode = 0;
};

// Nobody put it there for the pod: loopback, what the kernel puts into each namespace (tunl0, sit0, …), a tap of ours.
bool IsNobodys(const Link& link);

// Empty: it can be connected. Else why not, and what to do about it.
std::string WhyNotConnected(const Link& link, std::span<const Link> all);

}  // namespace wyvern::runtime
