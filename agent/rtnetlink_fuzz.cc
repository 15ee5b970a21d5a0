// Any bytes as a datagram of the kernel's: nothing is read beyond it, and what is read has the shape that the rest relies on. The first byte is
// the sequence number that we wait for.
#include <algorithm>
#include <cstdlib>

#include "agent/network_messages.h"
#include "agent/rtnetlink.h"

namespace {

using wyvern::agent::IpAddress;
using wyvern::agent::NetlinkMessage;

void Require(bool holds) {
  if (!holds) {
    abort();
  }
}

bool IsWhole(const IpAddress& address) {
  return !address.is_set() || address.size() != 0;
}

void ReadAll(const NetlinkMessage& message) {
  if (const auto link = wyvern::agent::ReadLink(message); link) {
    Require(link->index > 0 && link->name.find('\0') == std::string::npos);
  }
  if (const auto address = wyvern::agent::ReadAddressMessage(message); address) {
    Require(address->local.address.is_set() && IsWhole(address->local.address));
    Require(IsWhole(address->peer) && IsWhole(address->broadcast));
    Require(address->peer != address->local.address);
  }
  if (const auto route = wyvern::agent::ReadRouteMessage(message); route) {
    Require(IsWhole(route->destination.address) && IsWhole(route->gateway));
    Require(IsWhole(route->source));
  }
  if (const auto neighbour = wyvern::agent::ReadNeighbourMessage(message); neighbour) {
    Require(neighbour->address.is_set() && IsWhole(neighbour->address));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) {
    return 0;
  }
  const auto datagram = std::as_bytes(std::span(data + 1, size - 1));
  const auto read = wyvern::agent::ReadDatagram(datagram, data[0], ReadAll);
  if (!read) {
    Require(read.error().message().size() < 512);
  }
  return 0;
}
