// agent/network_messages.h — interfaces, addresses, routes and neighbours as messages of the kernel: written and read.
// Spec:    rtnetlink(7); linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h, linux/neighbour.h.
// Shape:   what is read is in the shape that network_request.h gives a wish, so that the two compare; what has no such shape (another
//          routing table, a route with several ways, a dynamic neighbour) is read as nothing.
// Threads: any.   Trust: messages are the kernel's; what is in them, containers with CAP_NET_ADMIN may have made.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "agent/network_request.h"
#include "agent/rtnetlink.h"

namespace wyvern::agent {

struct Link {
  int index = 0;
  std::string name;
  MacAddress mac{};        // what it has now
  MacAddress permanent{};  // the device's own; zero: it has none
  bool made = false;       // of a kind that software makes: bridge, veth, vlan
  uint32_t mtu = 0;
  uint32_t flags = 0;  // IFF_*
};

NetlinkRequest ListLinks();
NetlinkRequest RenameLink(int index, const std::string& name);
NetlinkRequest SetLinkMtu(int index, uint32_t mtu);
// Those bits of the flags that `mask` has.
NetlinkRequest SetLinkFlags(int index, uint32_t flags, uint32_t mask);
std::optional<Link> ReadLink(const NetlinkMessage& message);

NetlinkRequest ListAddresses();
// Of IPv6 without duplicate address detection: the host has done it, for the interface that the guest's stands for.
NetlinkRequest AddAddress(const LinkAddress& address);
NetlinkRequest RemoveAddress(const LinkAddress& address);
std::optional<LinkAddress> ReadAddressMessage(const NetlinkMessage& message);

NetlinkRequest ListRoutes();
// `flags`: NLM_F_REPLACE or NLM_F_APPEND, for what to do where the kernel has one to the same destination with the same metric.
NetlinkRequest AddRoute(const Route& route, uint16_t flags);
// Whoever made it.
NetlinkRequest RemoveRoute(const Route& route);
std::optional<Route> ReadRouteMessage(const NetlinkMessage& message);

NetlinkRequest ListNeighbours();
// A permanent one, in place of what the kernel has for that address.
NetlinkRequest SetNeighbour(const Neighbour& neighbour);
NetlinkRequest RemoveNeighbour(const Neighbour& neighbour);
std::optional<Neighbour> ReadNeighbourMessage(const NetlinkMessage& message);

}  // namespace wyvern::agent
