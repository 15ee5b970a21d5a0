#include "net/rx_filter.h"

#include <algorithm>

namespace wyvern::devices {

namespace {

constexpr MacAddress kBroadcastAddress = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

bool InTable(const RxTable& table, const MacAddress& address) {
  const auto entries = std::span(table.addresses).first(table.count);
  return table.overflow || std::ranges::find(entries, address) != entries.end();
}

}  // namespace

bool RxFilter::Accepts(const MacAddress& destination) const {
  if (promiscuous) {
    return true;
  }
  if (destination == kBroadcastAddress) {
    return !no_broadcast;
  }
  if ((destination[0] & 1U) != 0) {
    return !no_multicast && (all_multicast || InTable(multicast, destination));
  }
  return !no_unicast && (all_unicast || destination == own || InTable(unicast, destination));
}

}  // namespace wyvern::devices
