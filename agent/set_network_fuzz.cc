// Any bytes as a SetNetworkRequest: what is taken keeps the bounds of agent.proto, and refers to interfaces that it has.
#include <linux/rtnetlink.h>

#include <cstdlib>
#include <set>

#include "agent/network_messages.h"
#include "agent/network_request.h"

namespace {

using wyvern::agent::IpAddress;
using wyvern::agent::WantedInterface;
using wyvern::agent::WantedNetwork;

void Require(bool holds) {
  if (!holds) {
    abort();
  }
}

bool IsOf(const IpAddress& address, uint8_t family) {
  return !address.is_set() || address.family == family;
}

std::set<std::string> CheckInterfaces(const WantedNetwork& network) {
  std::set<std::string> names;
  Require(network.interfaces.size() <= wyvern::agent::kMaxInterfaces);
  for (const WantedInterface& interface : network.interfaces) {
    Require(wyvern::agent::IsInterfaceName(interface.name) && names.insert(interface.name).second);
    Require(wyvern::agent::IsStation(interface.mac));
    Require(interface.mtu >= 68 && interface.mtu <= 65535);
    Require(interface.addresses.size() <= wyvern::agent::kMaxAddresses);
    for (const auto& address : interface.addresses) {
      const IpAddress& local = address.local.address;
      Require(local.is_set() && address.local.length <= local.size() * 8);
      Require(IsOf(address.peer, local.family) && IsOf(address.broadcast, AF_INET));
      (void)wyvern::agent::AddAddress(address);
    }
  }
  return names;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wyvern::agent::v1::SetNetworkRequest request;
  if (!request.ParseFromArray(data, static_cast<int>(size))) {
    return 0;
  }
  const auto network = wyvern::agent::ParseNetwork(request);
  if (!network) {
    Require(network.error().code() == wyvern::Code::kInvalidArgument);
    Require(network.error().message().size() < 512);
    return 0;
  }
  std::set<std::string> names = CheckInterfaces(*network);
  Require(network->routes.size() <= wyvern::agent::kMaxRoutes);
  for (const auto& [interface, route] : network->routes) {
    const bool nowhere = route.type != RTN_UNICAST;
    Require(nowhere ? interface.empty() && !route.gateway.is_set()
                    : names.contains(interface) || interface == "lo");
    Require(wyvern::agent::IsNetwork(route.destination));
    Require(IsOf(route.source, route.destination.address.family));
    Require(route.destination.address.family == AF_INET || IsOf(route.gateway, AF_INET6));
    (void)wyvern::agent::AddRoute(route, 0);
  }
  Require(network->neighbours.size() <= wyvern::agent::kMaxNeighbours);
  for (const auto& [interface, neighbour] : network->neighbours) {
    Require(names.contains(interface) && neighbour.address.is_set());
    (void)wyvern::agent::SetNeighbour(neighbour);
  }
  return 0;
}
