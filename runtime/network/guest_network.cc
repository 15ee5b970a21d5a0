#include "network/guest_network.h"

#include <algorithm>
#include <set>
#include <string>

namespace wyvern::runtime {
namespace {

std::string Bytes(const MacAddress& mac) {
  return {mac.begin(), mac.end()};
}

bool SameDevice(const Interface& a, const Interface& b) {
  return a.index == b.index && a.mac == b.mac && a.mtu == b.mtu && a.kind == b.kind;
}

bool Has(const std::vector<Interface>& interfaces, const Interface& wanted) {
  return std::any_of(interfaces.begin(), interfaces.end(),
                     [&](const Interface& it) { return SameDevice(it, wanted); });
}

void Tell(const Interface& interface, wyvern::agent::v1::NetworkInterface& out) {
  out.set_mac(Bytes(interface.mac));
  out.set_name(interface.name);
  out.set_mtu(interface.mtu);
  out.set_no_arp(interface.no_arp);
  for (const InterfaceAddress& address : interface.addresses) {
    auto& added = *out.add_address();
    added.set_address(address.address);
    added.set_peer(address.peer);
    added.set_broadcast(address.broadcast);
    added.set_scope(address.scope);
  }
}

void Tell(const Route& route, wyvern::agent::v1::NetworkRoute& out) {
  out.set_destination(route.destination);
  out.set_gateway(route.gateway);
  out.set_interface(route.interface);
  out.set_source(route.source);
  out.set_scope(route.scope);
  out.set_metric(route.metric);
  out.set_type(route.type);
  out.set_on_link(route.on_link);
  out.set_mtu(route.mtu);
}

}  // namespace

wyvern::agent::v1::SetNetworkRequest ToSetNetwork(const NetworkScan& scan) {
  wyvern::agent::v1::SetNetworkRequest request;
  std::set<std::string> up = {""};  // routes that have no interface
  for (const Interface& interface : scan.interfaces) {
    if (interface.up) {
      up.insert(interface.name);
      Tell(interface, *request.add_interface());
    }
  }
  for (const Route& route : scan.routes) {
    if (up.contains(route.interface)) {
      Tell(route, *request.add_route());
    }
  }
  for (const Neighbour& neighbour : scan.neighbours) {
    if (up.contains(neighbour.interface)) {
      auto& added = *request.add_neighbour();
      added.set_interface(neighbour.interface);
      added.set_address(neighbour.address);
      added.set_mac(Bytes(neighbour.mac));
    }
  }
  return request;
}

NetworkChange Compare(const NetworkScan& before, const NetworkScan& now) {
  NetworkChange change;
  for (const Interface& interface : before.interfaces) {
    if (!Has(now.interfaces, interface)) {
      change.went.push_back(interface.index);
    }
  }
  for (const Interface& interface : now.interfaces) {
    if (!Has(before.interfaces, interface)) {
      change.came.push_back(interface);
    }
  }
  change.guest = before.interfaces != now.interfaces || before.routes != now.routes ||
                 before.neighbours != now.neighbours;
  return change;
}

}  // namespace wyvern::runtime
