#include "network/scan_reader.h"

#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/plain_text.h"
#include "network/attributes.h"

namespace wyvern::runtime {
namespace {

constexpr size_t kMaxLeftOut = 32;

Error TooMany(const char* what, size_t limit) {
  return {Code::kResourceExhausted, std::string("the network namespace has too many ") + what +
                                        ": a sandbox takes " + std::to_string(limit)};
}

template <int kMax>
std::optional<MacAddress> Mac(const Attributes<kMax>& attributes, int number) {
  const nlattr* const it = attributes[number];
  if (it == nullptr || nla_len(it) != static_cast<int>(sizeof(MacAddress))) {
    return std::nullopt;
  }
  return attributes.template Number<MacAddress>(number);
}

Link* Find(std::vector<Link>& links, int index) {
  const auto found = std::find_if(links.begin(), links.end(),
                                  [&](const Link& l) { return l.interface.index == index; });
  return found == links.end() ? nullptr : &*found;
}

bool IsIp(int family) {
  return family == AF_INET || family == AF_INET6;
}

std::string WithPrefix(const std::string& address, unsigned length) {
  return address + "/" + std::to_string(length);
}

// Routes that the guest's own kernel makes: of its addresses, and of the router advertisements that it hears as the host would.
bool GuestMakesItself(uint8_t protocol) {
  return protocol == RTPROT_KERNEL || protocol == RTPROT_RA || protocol == RTPROT_REDIRECT;
}

bool HasNoInterface(uint8_t type) {
  return type == RTN_BLACKHOLE || type == RTN_UNREACHABLE || type == RTN_PROHIBIT;
}

// RTA_GATEWAY, or RTA_VIA: a gateway of IPv6 for a destination of IPv4. Empty: on the link. Nothing: no such address.
std::optional<std::string> Gateway(const nlattr* gateway, const nlattr* via, int family) {
  if (via == nullptr && gateway == nullptr) {
    return std::string();
  }
  std::string text;
  if (via == nullptr) {
    text = AddressText(gateway, family);
  } else if (rtvia header{}; nla_len(via) >= static_cast<int>(sizeof(header))) {
    std::memcpy(&header, nla_data(via), sizeof(header));
    text = AddressText(static_cast<const char*>(nla_data(via)) + sizeof(header),
                       nla_len(via) - static_cast<int>(sizeof(header)), header.rtvia_family);
  }
  return text.empty() ? std::nullopt : std::optional(text);
}

// The first next hop of a route, and whether there are more.
struct NextHops {
  int interface = 0;
  std::string gateway;
  bool on_link = false;
  bool several = false;
};

std::optional<NextHops> ReadMultipath(const nlattr* multipath, int family) {
  rtnexthop first{};
  const int room = nla_len(multipath);
  if (room < static_cast<int>(sizeof(first))) {
    return std::nullopt;
  }
  const char* const bytes = static_cast<const char*>(nla_data(multipath));
  std::memcpy(&first, bytes, sizeof(first));
  const int length = first.rtnh_len;
  if (length < static_cast<int>(sizeof(first)) || length > room) {
    return std::nullopt;
  }
  const auto find = [&](int number) {
    return nla_find(reinterpret_cast<const nlattr*>(bytes + sizeof(first)),
                    length - static_cast<int>(sizeof(first)), number);
  };
  auto gateway = Gateway(find(RTA_GATEWAY), find(RTA_VIA), family);
  if (!gateway.has_value()) {
    return std::nullopt;
  }
  return NextHops{.interface = first.rtnh_ifindex,
                  .gateway = *std::move(gateway),
                  .on_link = (first.rtnh_flags & RTNH_F_ONLINK) != 0,
                  .several = RTNH_ALIGN(length) < room};
}

std::optional<NextHops> ReadNextHops(const rtmsg& header, const Attributes<RTA_MAX>& attributes) {
  if (HasNoInterface(header.rtm_type)) {
    return NextHops{};  // IPv6 names lo
  }
  if (attributes[RTA_MULTIPATH] != nullptr) {
    return ReadMultipath(attributes[RTA_MULTIPATH], header.rtm_family);
  }
  auto gateway = Gateway(attributes[RTA_GATEWAY], attributes[RTA_VIA], header.rtm_family);
  if (!gateway.has_value()) {
    return std::nullopt;
  }
  return NextHops{.interface = attributes.Number<int>(RTA_OIF).value_or(0),
                  .gateway = *std::move(gateway),
                  .on_link = (header.rtm_flags & RTNH_F_ONLINK) != 0};
}

// What of a route no guest can be told; empty: nothing.
std::string Inexpressible(const rtmsg& header, const Attributes<RTA_MAX>& attributes) {
  if (header.rtm_type != RTN_UNICAST && !HasNoInterface(header.rtm_type)) {
    return "its type is not unicast, blackhole, unreachable or prohibit";
  }
  if (header.rtm_tos != 0 || header.rtm_src_len != 0) {
    return "it is for some packets only, by their source or type of service";
  }
  return attributes[RTA_ENCAP] == nullptr ? "" : "it encapsulates packets";
}

}  // namespace

Result<> ScanReader::Add(nlmsghdr* message) {
  switch (message->nlmsg_type) {
    case RTM_NEWLINK:
      return AddLink(message);
    case RTM_NEWADDR:
      return AddAddress(message);
    case RTM_NEWROUTE:
      return AddRoute(message);
    case RTM_NEWNEIGH:
      return AddNeighbour(message);
    default:
      return {};
  }
}

Result<> ScanReader::AddLink(nlmsghdr* message) {
  ifinfomsg header{};
  WV_TRY(const auto attributes, Attributes<IFLA_MAX>::OfMessage(message, &header));
  const auto info = Attributes<IFLA_INFO_MAX>::Nested(attributes[IFLA_LINKINFO]);
  Link link;
  link.flags = header.ifi_flags;
  link.type = header.ifi_type;
  // With a namespace's number beside it the other interface is in that one.
  if (attributes[IFLA_LINK_NETNSID] == nullptr) {
    link.lower = attributes.Number<int>(IFLA_LINK).value_or(0);
  }
  link.controller = attributes.Number<int>(IFLA_MASTER).value_or(0);
  Interface& it = link.interface;
  it.index = header.ifi_index;
  it.name = attributes.Text(IFLA_IFNAME);
  it.kind = info.Text(IFLA_INFO_KIND);
  it.mac = Mac(attributes, IFLA_ADDRESS).value_or(MacAddress{});
  it.mtu = std::min(attributes.Number<uint32_t>(IFLA_MTU).value_or(0), kMaxTapMtu);
  it.up = (link.flags & IFF_UP) != 0;
  it.no_arp = (link.flags & IFF_NOARP) != 0;
  if (it.kind == "ipvlan") {
    const auto data = Attributes<IFLA_IPVLAN_MAX>::Nested(info[IFLA_INFO_DATA]);
    link.ipvlan_mode = data.Number<uint16_t>(IFLA_IPVLAN_MODE).value_or(IPVLAN_MODE_L3);
  }
  if (it.index <= 0 || it.name.empty()) {
    return Fail(Code::kInternal, "rtnetlink: an interface without index or name");
  }
  if (IsNobodys(link) || Find(links_, it.index) != nullptr) {
    return {};
  }
  if (links_.size() == kMaxInterfaces) {
    return tl::unexpected(TooMany("interfaces", kMaxInterfaces));
  }
  links_.push_back(std::move(link));
  return {};
}

Result<> ScanReader::AddAddress(nlmsghdr* message) {
  ifaddrmsg header{};
  WV_TRY(const auto attributes, Attributes<IFA_MAX>::OfMessage(message, &header));
  Link* const link = Find(links_, static_cast<int>(header.ifa_index));
  if (link == nullptr || !IsIp(header.ifa_family)) {
    return {};
  }
  const uint32_t flags = attributes.Number<uint32_t>(IFA_FLAGS).value_or(header.ifa_flags);
  // Linux 5.18. The guest's kernel makes those itself, by the same rules.
  const uint8_t origin = attributes.Number<uint8_t>(IFA_PROTO).value_or(IFAPROT_UNSPEC);
  if (origin == IFAPROT_KERNEL_LO || origin == IFAPROT_KERNEL_RA || origin == IFAPROT_KERNEL_LL ||
      (header.ifa_family == AF_INET6 && (flags & IFA_F_TEMPORARY) != 0)) {
    return {};
  }
  // IFA_LOCAL is left out where it would be IFA_ADDRESS.
  const std::string named = attributes.Address(IFA_ADDRESS, header.ifa_family);
  const std::string local = attributes.Address(IFA_LOCAL, header.ifa_family);
  InterfaceAddress address;
  address.address = WithPrefix(local.empty() ? named : local, header.ifa_prefixlen);
  address.peer = local.empty() || local == named ? std::string() : named;
  address.broadcast = attributes.Address(IFA_BROADCAST, header.ifa_family);
  address.scope = header.ifa_scope;
  if ((local.empty() && named.empty()) ||
      header.ifa_prefixlen > (header.ifa_family == AF_INET ? 32 : 128)) {
    return Fail(Code::kInternal, "rtnetlink: an address that is none");
  }
  if (header.ifa_family == AF_INET6 && (flags & IFA_F_DADFAILED) != 0) {
    LeaveOut(address.address + ": somebody else on the link has that address");
    return {};
  }
  if (link->interface.addresses.size() == kMaxAddresses) {
    return tl::unexpected(TooMany("addresses on one interface", kMaxAddresses));
  }
  link->interface.addresses.push_back(std::move(address));
  return {};
}

Result<> ScanReader::AddRoute(nlmsghdr* message) {
  rtmsg header{};
  WV_TRY(const auto attributes, Attributes<RTA_MAX>::OfMessage(message, &header));
  if (!IsIp(header.rtm_family) || (header.rtm_flags & RTM_F_CLONED) != 0 ||
      GuestMakesItself(header.rtm_protocol) ||
      attributes.Number<uint32_t>(RTA_TABLE).value_or(header.rtm_table) != RT_TABLE_MAIN) {
    return {};
  }
  const int family = header.rtm_family;
  auto hops = ReadNextHops(header, attributes);
  if (!hops.has_value()) {
    return Fail(Code::kInternal, "rtnetlink: a gateway that is none");
  }
  if (!HasNoInterface(header.rtm_type) && Find(links_, hops->interface) == nullptr) {
    return {};
  }
  std::string destination = attributes.Address(RTA_DST, family);
  if (header.rtm_dst_len > (family == AF_INET ? 32 : 128) ||
      (destination.empty() && header.rtm_dst_len != 0)) {
    return Fail(Code::kInternal, "rtnetlink: a route without destination");
  }
  if (destination.empty()) {
    destination = family == AF_INET ? "0.0.0.0" : "::";
  }
  const auto metrics = Attributes<RTAX_MAX>::Nested(attributes[RTA_METRICS]);
  Route route = {
      .destination = WithPrefix(destination, header.rtm_dst_len),
      .gateway = std::move(hops->gateway),
      .interface = {},
      .source = attributes.Address(RTA_PREFSRC, family),
      .scope = header.rtm_scope,
      .metric = attributes.Number<uint32_t>(RTA_PRIORITY).value_or(0),
      .type = header.rtm_type,
      .on_link = hops->on_link,
      .mtu = metrics.Number<uint32_t>(RTAX_MTU).value_or(0),
  };
  if (const std::string why = Inexpressible(header, attributes); !why.empty()) {
    LeaveOut("route to " + route.destination + ": " + why);
    return {};
  }
  if (hops->several) {
    LeaveOut("route to " + route.destination + ": of its next hops the guest gets the first");
  }
  if (routes_.size() == kMaxRoutes) {
    return tl::unexpected(TooMany("routes", kMaxRoutes));
  }
  routes_.push_back({.index = hops->interface, .route = std::move(route)});
  return {};
}

Result<> ScanReader::AddNeighbour(nlmsghdr* message) {
  ndmsg header{};
  WV_TRY(const auto attributes, Attributes<NDA_MAX>::OfMessage(message, &header));
  if (!IsIp(header.ndm_family) || (header.ndm_state & NUD_PERMANENT) == 0 ||
      (header.ndm_flags & NTF_PROXY) != 0 || Find(links_, header.ndm_ifindex) == nullptr) {
    return {};
  }
  std::string address = attributes.Address(NDA_DST, header.ndm_family);
  const auto mac = Mac(attributes, NDA_LLADDR);
  if (address.empty() || !mac.has_value()) {
    return {};  // of a link that is not Ethernet
  }
  if (neighbours_.size() == kMaxNeighbours) {
    return tl::unexpected(TooMany("permanent neighbours", kMaxNeighbours));
  }
  neighbours_.push_back(
      {.index = header.ndm_ifindex,
       .neighbour = {.interface = {}, .address = std::move(address), .mac = *mac}});
  return {};
}

void ScanReader::LeaveOut(std::string line) {
  if (left_out_.size() + 1 < kMaxLeftOut) {
    left_out_.push_back(std::move(line));
  } else if (left_out_.size() < kMaxLeftOut) {
    left_out_.emplace_back("and more");
  }
}

NetworkScan ScanReader::Finish() && {
  std::sort(links_.begin(), links_.end(),
            [](const Link& a, const Link& b) { return a.interface.index < b.interface.index; });
  NetworkScan out;
  std::map<int, std::string> names;
  std::set<MacAddress> macs;
  std::set<std::string> taken;
  for (Link& link : links_) {
    std::string why = WhyNotConnected(link, links_);
    // ipvlan: those over one device all have its MAC.
    if (why.empty() && !macs.insert(link.interface.mac).second) {
      why = "another interface has the same MAC address, by which a guest tells them apart";
    }
    // Renamed between two messages of the list: the next scan has it.
    if (why.empty() && !taken.insert(link.interface.name).second) {
      why = "another interface has that name";
    }
    if (!why.empty()) {
      LeaveOut(PlainText(link.interface.name, IFNAMSIZ) + ": " + why);
      continue;
    }
    names.emplace(link.interface.index, link.interface.name);
    out.interfaces.push_back(link.interface);
  }
  for (RouteOf& it : routes_) {
    const auto name = names.find(it.index);
    if (it.index == 0 || name != names.end()) {
      it.route.interface = it.index == 0 ? std::string() : name->second;
      out.routes.push_back(std::move(it.route));
    }
  }
  // A gateway must be on a link already; Linux does not look for it behind another gateway.
  std::stable_partition(out.routes.begin(), out.routes.end(),
                        [](const Route& route) { return route.gateway.empty(); });
  for (NeighbourOf& it : neighbours_) {
    if (const auto name = names.find(it.index); name != names.end()) {
      it.neighbour.interface = name->second;
      out.neighbours.push_back(std::move(it.neighbour));
    }
  }
  out.left_out = std::move(left_out_);
  return out;
}

}  // namespace wyvern::runtime
