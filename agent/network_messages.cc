#include "agent/network_messages.h"

#include <linux/if_addr.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>

#include <algorithm>
#include <cstring>

namespace wyvern::agent {
namespace {

// One without: the message is none. What is not there is no address, which is none too.
bool TakeAddress(const NetlinkAttributes& attributes, uint16_t type, uint8_t family,
                 IpAddress& out) {
  const auto bytes = attributes.Find(type);
  if (!bytes) {
    return true;
  }
  const auto address = MakeIpAddress(family, *bytes);
  if (!address) {
    return false;
  }
  out = *address;
  return true;
}

bool TakeMac(const NetlinkAttributes& attributes, uint16_t type, MacAddress& out) {
  const auto bytes = attributes.Find(type);
  if (!bytes || bytes->size() != out.size()) {
    return false;
  }
  std::memcpy(out.data(), bytes->data(), out.size());
  return true;
}

void AddOptional(NetlinkRequest& request, uint16_t type, const IpAddress& address) {
  if (address.is_set()) {
    request.Add(type, address.used());
  }
}

// rtvia: a family, then the address.
void AddGateway(NetlinkRequest& request, const Route& route) {
  if (route.gateway.family == route.destination.address.family) {
    request.Add(RTA_GATEWAY, route.gateway.used());
  } else if (route.gateway.is_set()) {
    std::array<uint8_t, sizeof(uint16_t) + 16> via{};
    const uint16_t family = route.gateway.family;
    std::memcpy(via.data(), &family, sizeof(family));
    std::ranges::copy(route.gateway.used(), via.begin() + sizeof(family));
    request.Add(RTA_VIA,
                std::span<const uint8_t>(via).first(sizeof(family) + route.gateway.size()));
  }
}

bool TakeGateway(const NetlinkAttributes& attributes, uint8_t family, IpAddress& out) {
  const auto via = attributes.Find(RTA_VIA);
  if (!via) {
    return TakeAddress(attributes, RTA_GATEWAY, family, out);
  }
  uint16_t other = 0;
  if (via->size() <= sizeof(other)) {
    return false;
  }
  std::memcpy(&other, via->data(), sizeof(other));
  const auto address = MakeIpAddress(static_cast<uint8_t>(other), via->subspan(sizeof(other)));
  if (!address) {
    return false;
  }
  out = *address;
  return true;
}

NetlinkRequest RouteRequest(uint16_t type, uint16_t flags, const Route& route, uint8_t protocol) {
  rtmsg header{};
  header.rtm_family = route.destination.address.family;
  header.rtm_dst_len = route.destination.length;
  header.rtm_table = RT_TABLE_MAIN;
  header.rtm_protocol = protocol;
  header.rtm_scope = route.scope;
  header.rtm_type = route.type;
  header.rtm_flags = route.on_link ? unsigned{RTNH_F_ONLINK} : 0U;
  NetlinkRequest request(type, flags, header);
  if (route.destination.length > 0) {
    request.Add(RTA_DST, route.destination.address.used());
  }
  AddGateway(request, route);
  if (route.link != 0) {
    request.Add(RTA_OIF, static_cast<uint32_t>(route.link));
  }
  AddOptional(request, RTA_PREFSRC, route.source);
  if (route.metric != 0) {
    request.Add(RTA_PRIORITY, route.metric);
  }
  if (route.mtu != 0) {
    const size_t metrics = request.Begin(RTA_METRICS);
    request.Add(RTAX_MTU, route.mtu);
    request.End(metrics);
  }
  return request;
}

NetlinkRequest AddressRequest(uint16_t type, uint16_t flags, const LinkAddress& address) {
  ifaddrmsg header{};
  header.ifa_family = address.local.address.family;
  header.ifa_prefixlen = address.local.length;
  header.ifa_flags = header.ifa_family == AF_INET6 ? uint8_t{IFA_F_NODAD} : uint8_t{0};
  header.ifa_scope = address.scope;
  header.ifa_index = static_cast<uint32_t>(address.link);
  NetlinkRequest request(type, flags, header);
  request.Add(IFA_LOCAL, address.local.address.used());
  request.Add(IFA_ADDRESS,
              address.peer.is_set() ? address.peer.used() : address.local.address.used());
  AddOptional(request, IFA_BROADCAST, address.broadcast);
  return request;
}

NetlinkRequest NeighbourRequest(uint16_t type, uint16_t flags, const Neighbour& neighbour) {
  ndmsg header{};
  header.ndm_family = neighbour.address.family;
  header.ndm_ifindex = neighbour.link;
  header.ndm_state = NUD_PERMANENT;
  NetlinkRequest request(type, flags, header);
  request.Add(NDA_DST, neighbour.address.used());
  request.Add(NDA_LLADDR, std::span<const uint8_t>(neighbour.mac));
  return request;
}

ifinfomsg LinkHeader(int index) {
  ifinfomsg header{};
  header.ifi_index = index;
  return header;
}

bool IsIp(uint8_t family) {
  return family == AF_INET || family == AF_INET6;
}

}  // namespace

NetlinkRequest ListLinks() {
  NetlinkRequest request(RTM_GETLINK, 0, ifinfomsg{});
  request.Add(IFLA_EXT_MASK, uint32_t{RTEXT_FILTER_SKIP_STATS});
  return request;
}

NetlinkRequest RenameLink(int index, const std::string& name) {
  NetlinkRequest request(RTM_NEWLINK, 0, LinkHeader(index));
  request.AddText(IFLA_IFNAME, name);
  return request;
}

NetlinkRequest SetLinkMtu(int index, uint32_t mtu) {
  NetlinkRequest request(RTM_NEWLINK, 0, LinkHeader(index));
  request.Add(IFLA_MTU, mtu);
  return request;
}

NetlinkRequest SetLinkFlags(int index, uint32_t flags, uint32_t mask) {
  ifinfomsg header = LinkHeader(index);
  header.ifi_flags = flags & mask;
  header.ifi_change = mask;
  return {RTM_NEWLINK, 0, header};
}

std::optional<Link> ReadLink(const NetlinkMessage& message) {
  const auto header = message.ReadHeader<ifinfomsg>();
  if (message.type != RTM_NEWLINK || !header || header->ifi_index <= 0) {
    return std::nullopt;
  }
  const NetlinkAttributes attributes = message.AttributesBehind<ifinfomsg>();
  Link link;
  link.index = header->ifi_index;
  link.flags = header->ifi_flags;
  link.name = attributes.Text(IFLA_IFNAME);
  link.mtu = attributes.Number(IFLA_MTU).value_or(0);
  if (header->ifi_type == ARPHRD_ETHER) {
    (void)TakeMac(attributes, IFLA_ADDRESS, link.mac);
    (void)TakeMac(attributes, IFLA_PERM_ADDRESS, link.permanent);
  }
  if (const auto info = attributes.Find(IFLA_LINKINFO); info) {
    link.made = NetlinkAttributes(*info).Find(IFLA_INFO_KIND).has_value();
  }
  return link;
}

NetlinkRequest ListAddresses() {
  return {RTM_GETADDR, 0, ifaddrmsg{}};
}

NetlinkRequest AddAddress(const LinkAddress& address) {
  return AddressRequest(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, address);
}

NetlinkRequest RemoveAddress(const LinkAddress& address) {
  return AddressRequest(RTM_DELADDR, 0, address);
}

std::optional<LinkAddress> ReadAddressMessage(const NetlinkMessage& message) {
  const auto header = message.ReadHeader<ifaddrmsg>();
  if (message.type != RTM_NEWADDR || !header || !IsIp(header->ifa_family)) {
    return std::nullopt;
  }
  const uint8_t family = header->ifa_family;
  const NetlinkAttributes attributes = message.AttributesBehind<ifaddrmsg>();
  IpAddress local;
  IpAddress address;
  LinkAddress out;
  if (!TakeAddress(attributes, IFA_LOCAL, family, local) ||
      !TakeAddress(attributes, IFA_ADDRESS, family, address) ||
      !TakeAddress(attributes, IFA_BROADCAST, family, out.broadcast)) {
    return std::nullopt;
  }
  // IFA_ADDRESS is the peer's, or the same, or all there is.
  out.local = {local.is_set() ? local : address, header->ifa_prefixlen};
  out.peer = out.local.address == address ? IpAddress() : address;
  out.link = static_cast<int>(header->ifa_index);
  out.scope = family == AF_INET ? header->ifa_scope : uint8_t{0};
  if (!out.local.address.is_set()) {
    return std::nullopt;
  }
  return out;
}

NetlinkRequest ListRoutes() {
  return {RTM_GETROUTE, 0, rtmsg{}};
}

NetlinkRequest AddRoute(const Route& route, uint16_t flags) {
  // What `ip route add` says of its own.
  return RouteRequest(RTM_NEWROUTE, static_cast<uint16_t>(NLM_F_CREATE | flags), route,
                      RTPROT_BOOT);
}

NetlinkRequest RemoveRoute(const Route& route) {
  return RouteRequest(RTM_DELROUTE, 0, route, RTPROT_UNSPEC);
}

std::optional<Route> ReadRouteMessage(const NetlinkMessage& message) {
  const auto header = message.ReadHeader<rtmsg>();
  if (message.type != RTM_NEWROUTE || !header || !IsIp(header->rtm_family) ||
      header->rtm_src_len != 0 || header->rtm_tos != 0 || (header->rtm_flags & RTM_F_CLONED) != 0) {
    return std::nullopt;
  }
  const uint8_t family = header->rtm_family;
  const NetlinkAttributes attributes = message.AttributesBehind<rtmsg>();
  Route out;
  out.destination.length = header->rtm_dst_len;
  out.destination.address.family = family;
  if (attributes.Number(RTA_TABLE).value_or(header->rtm_table) != RT_TABLE_MAIN ||
      attributes.Find(RTA_MULTIPATH) ||
      !TakeAddress(attributes, RTA_DST, family, out.destination.address) ||
      !TakeAddress(attributes, RTA_PREFSRC, family, out.source) ||
      !TakeGateway(attributes, family, out.gateway)) {
    return std::nullopt;
  }
  out.type = header->rtm_type;
  if (out.type == RTN_UNICAST) {
    out.link = static_cast<int>(attributes.Number(RTA_OIF).value_or(0));
  }
  out.scope = family == AF_INET ? header->rtm_scope : uint8_t{0};
  out.metric = attributes.Number(RTA_PRIORITY).value_or(0);
  out.on_link = (header->rtm_flags & RTNH_F_ONLINK) != 0;
  if (const auto metrics = attributes.Find(RTA_METRICS); metrics) {
    out.mtu = NetlinkAttributes(*metrics).Number(RTAX_MTU).value_or(0);
  }
  return out;
}

NetlinkRequest ListNeighbours() {
  return {RTM_GETNEIGH, 0, ndmsg{}};
}

NetlinkRequest SetNeighbour(const Neighbour& neighbour) {
  return NeighbourRequest(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, neighbour);
}

NetlinkRequest RemoveNeighbour(const Neighbour& neighbour) {
  return NeighbourRequest(RTM_DELNEIGH, 0, neighbour);
}

std::optional<Neighbour> ReadNeighbourMessage(const NetlinkMessage& message) {
  const auto header = message.ReadHeader<ndmsg>();
  if (message.type != RTM_NEWNEIGH || !header || !IsIp(header->ndm_family) ||
      (header->ndm_state & NUD_PERMANENT) == 0) {
    return std::nullopt;
  }
  const NetlinkAttributes attributes = message.AttributesBehind<ndmsg>();
  Neighbour out;
  out.link = header->ndm_ifindex;
  if (!TakeAddress(attributes, NDA_DST, header->ndm_family, out.address) || !out.address.is_set() ||
      !TakeMac(attributes, NDA_LLADDR, out.mac)) {
    return std::nullopt;
  }
  return out;
}

}  // namespace wyvern::agent
