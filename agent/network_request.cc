#include "agent/network_request.h"

#include <fmt/format.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "base/plain_text.h"

namespace wyvern::agent {
namespace {

constexpr uint32_t kSmallestMtu = 68;  // RFC 791
constexpr uint32_t kLargestMtu = 65535;
constexpr uint32_t kIpv6Metric = 1024;  // IP6_RT_PRIO_USER
constexpr size_t kQuoted = 64;          // of a text that is refused
constexpr char kLoopback[] = "lo";
constexpr unsigned char kDelete = 0x7f;

// Where in the request: its text is only made when something is wrong.
struct Entry {
  const char* list;
  int index;
  const char* sublist = nullptr;
  int subindex = 0;

  std::string Text() const {
    std::string text = fmt::format("{}[{}]", list, index);
    return sublist == nullptr ? text : text + fmt::format(".{}[{}]", sublist, subindex);
  }
};

tl::unexpected<Error> Bad(const Entry& entry, const char* field, const std::string& what) {
  return Fail(Code::kInvalidArgument, fmt::format("{}.{}: {}", entry.Text(), field, what));
}

std::string Quoted(std::string_view text) {
  return "'" + PlainText(text, kQuoted) + "'";
}

// None also for "0.0.0.0" and "::": to the kernel they are the same.
Result<IpAddress> ReadAddress(const std::string& text, const Entry& entry, const char* field) {
  if (text.empty()) {
    return IpAddress();
  }
  if (const auto address = ParseIpAddress(text); address) {
    const bool unspecified =
        std::ranges::all_of(address->used(), [](uint8_t byte) { return byte == 0; });
    return unspecified ? IpAddress() : *address;
  }
  return Bad(entry, field, Quoted(text) + " is no address");
}

Result<IpPrefix> ReadPrefix(const std::string& text, const Entry& entry, const char* field) {
  if (const auto prefix = ParseIpPrefix(text); prefix) {
    return *prefix;
  }
  return Bad(entry, field, Quoted(text) + " is no address with a prefix's length");
}

Result<uint8_t> ReadScope(uint32_t scope, const Entry& entry) {
  if (scope > RT_SCOPE_NOWHERE) {
    return Bad(entry, "scope", fmt::format("{} is more than 255", scope));
  }
  return static_cast<uint8_t>(scope);
}

Result<MacAddress> ReadMac(const std::string& bytes, const Entry& entry) {
  MacAddress mac{};
  if (bytes.size() != mac.size()) {
    return Bad(entry, "mac", fmt::format("{} bytes, not {}", bytes.size(), mac.size()));
  }
  std::memcpy(mac.data(), bytes.data(), mac.size());
  return mac;
}

Result<> CheckFamily(const IpAddress& address, uint8_t family, const Entry& entry,
                     const char* field) {
  if (address.is_set() && address.family != family) {
    return Bad(entry, field, ToText(address) + " is of the other family");
  }
  return {};
}

Result<LinkAddress> ReadLinkAddress(const v1::NetworkAddress& in, const Entry& entry) {
  LinkAddress out;
  WV_TRY(out.local, ReadPrefix(in.address(), entry, "address"));
  const uint8_t family = out.local.address.family;
  WV_TRY(out.peer, ReadAddress(in.peer(), entry, "peer"));
  WV_TRY_VOID(CheckFamily(out.peer, family, entry, "peer"));
  if (out.peer == out.local.address) {
    out.peer = {};  // the kernel's way to say that there is none
  }
  WV_TRY(out.broadcast, ReadAddress(in.broadcast(), entry, "broadcast"));
  if (out.broadcast.is_set() && (family != AF_INET || out.broadcast.family != AF_INET)) {
    return Bad(entry, "broadcast", "IPv4 has them, for an address of IPv4");
  }
  WV_TRY(const uint8_t scope, ReadScope(in.scope(), entry));
  out.scope = family == AF_INET ? scope : uint8_t{0};
  return out;
}

Result<WantedInterface> ReadInterface(const v1::NetworkInterface& in, const Entry& entry) {
  WantedInterface out;
  WV_TRY(out.mac, ReadMac(in.mac(), entry));
  if (!IsStation(out.mac)) {
    return Bad(entry, "mac", ToText(out.mac) + " is no device's");
  }
  out.name = in.name();
  if (!IsInterfaceName(out.name)) {
    return Bad(entry, "name", Quoted(out.name) + " cannot be an interface's name");
  }
  out.mtu = in.mtu();
  if (out.mtu < kSmallestMtu || out.mtu > kLargestMtu) {
    return Bad(entry, "mtu",
               fmt::format("{} is not within {} to {}", out.mtu, kSmallestMtu, kLargestMtu));
  }
  out.no_arp = in.no_arp();
  if (in.address_size() > kMaxAddresses) {
    return Bad(entry, "address",
               fmt::format("{} of them, at most {}", in.address_size(), kMaxAddresses));
  }
  for (int i = 0; i < in.address_size(); ++i) {
    WV_TRY(LinkAddress address,
           ReadLinkAddress(in.address(i), {entry.list, entry.index, "address", i}));
    out.addresses.push_back(address);
  }
  return out;
}

Result<Route> ReadWay(const v1::NetworkRoute& in, const Entry& entry) {
  Route out;
  WV_TRY(out.destination, ReadPrefix(in.destination(), entry, "destination"));
  if (!IsNetwork(out.destination)) {
    return Bad(entry, "destination",
               ToText(out.destination) +
                   " has bits behind the prefix: the kernel has no such "
                   "route");
  }
  const uint8_t family = out.destination.address.family;
  WV_TRY(out.gateway, ReadAddress(in.gateway(), entry, "gateway"));
  // IPv4 by a gateway of IPv6 is one of Linux's ways (RTA_VIA).
  if (family == AF_INET6) {
    WV_TRY_VOID(CheckFamily(out.gateway, family, entry, "gateway"));
  }
  WV_TRY(out.source, ReadAddress(in.source(), entry, "source"));
  WV_TRY_VOID(CheckFamily(out.source, family, entry, "source"));
  WV_TRY(const uint8_t scope, ReadScope(in.scope(), entry));
  out.scope = family == AF_INET ? scope : uint8_t{0};
  out.metric = family == AF_INET6 && in.metric() == 0 ? kIpv6Metric : in.metric();
  out.on_link = in.on_link();
  out.mtu = in.mtu();
  return out;
}

Result<WantedRoute> ReadRoute(const v1::NetworkRoute& in, const std::set<std::string>& names,
                              const Entry& entry) {
  WantedRoute out;
  WV_TRY(out.route, ReadWay(in, entry));
  switch (in.type()) {
    case RTN_UNICAST:
      if (!names.contains(in.interface()) && in.interface() != kLoopback) {
        return Bad(entry, "interface", Quoted(in.interface()) + " is not among the interfaces");
      }
      out.interface = in.interface();
      break;
    case RTN_BLACKHOLE:
    case RTN_UNREACHABLE:
    case RTN_PROHIBIT:
      if (!in.interface().empty() || out.route.gateway.is_set() || out.route.on_link) {
        return Bad(entry, "type", "a route that goes nowhere has no interface and no gateway");
      }
      break;
    default:
      return Bad(entry, "type", fmt::format("{} is none of 1, 6, 7 and 8", in.type()));
  }
  out.route.type = static_cast<uint8_t>(in.type());
  return out;
}

Result<WantedNeighbour> ReadNeighbour(const v1::NetworkNeighbour& in,
                                      const std::set<std::string>& names, const Entry& entry) {
  WantedNeighbour out;
  if (!names.contains(in.interface())) {
    return Bad(entry, "interface", Quoted(in.interface()) + " is not among the interfaces");
  }
  out.interface = in.interface();
  WV_TRY(out.neighbour.address, ReadAddress(in.address(), entry, "address"));
  if (!out.neighbour.address.is_set()) {
    return Bad(entry, "address", "missing");
  }
  WV_TRY(out.neighbour.mac, ReadMac(in.mac(), entry));
  return out;
}

Result<> CheckCount(const char* list, int count, int limit) {
  if (count > limit) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}: {} of them, at most {}", list, count, limit));
  }
  return {};
}

Result<std::set<std::string>> ReadInterfaces(const v1::SetNetworkRequest& request,
                                             WantedNetwork& network) {
  std::set<std::string> names;
  std::set<MacAddress> macs;
  for (int i = 0; i < request.interface_size(); ++i) {
    const Entry entry{"interface", i};
    WV_TRY(WantedInterface interface, ReadInterface(request.interface(i), entry));
    if (!names.insert(interface.name).second) {
      return Bad(entry, "name", Quoted(interface.name) + " is there twice");
    }
    if (!macs.insert(interface.mac).second) {
      return Bad(entry, "mac", ToText(interface.mac) + " is there twice");
    }
    network.interfaces.push_back(std::move(interface));
  }
  return names;
}

}  // namespace

bool IsInterfaceName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxInterfaceName && name != "." && name != ".." &&
         name != kLoopback && std::ranges::all_of(name, [](char c) {
           const auto byte = static_cast<unsigned char>(c);
           return byte > ' ' && byte != kDelete && c != '/' && c != ':' && c != '%';
         });
}

Result<WantedNetwork> ParseNetwork(const v1::SetNetworkRequest& request) {
  WV_TRY_VOID(CheckCount("interface", request.interface_size(), kMaxInterfaces));
  WV_TRY_VOID(CheckCount("route", request.route_size(), kMaxRoutes));
  WV_TRY_VOID(CheckCount("neighbour", request.neighbour_size(), kMaxNeighbours));
  WantedNetwork network;
  WV_TRY(const std::set<std::string> names, ReadInterfaces(request, network));
  for (int i = 0; i < request.route_size(); ++i) {
    WV_TRY(WantedRoute route, ReadRoute(request.route(i), names, {"route", i}));
    network.routes.push_back(std::move(route));
  }
  for (int i = 0; i < request.neighbour_size(); ++i) {
    WV_TRY(WantedNeighbour neighbour, ReadNeighbour(request.neighbour(i), names, {"neighbour", i}));
    network.neighbours.push_back(std::move(neighbour));
  }
  return network;
}

}  // namespace wyvern::agent
