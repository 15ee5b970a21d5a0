// net/rx_filter.h — which packets the driver wants, by destination address.
// Spec:    VIRTIO 1.4 §5.1.9.5.1 (modes), §5.1.9.5.2 (addresses).
// Shape:   a table of kMaxEntries addresses of each kind; with more of a kind all of it passes, as
//          the spec allows. Nothing is allocated.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "net/net_abi.h"

namespace wyvern::devices {

struct RxTable {
  static constexpr uint32_t kMaxEntries = 64;

  std::array<MacAddress, kMaxEntries> addresses{};
  uint32_t count = 0;
  bool overflow = false;  // more were asked for: everything of the kind passes
};

// What the driver has set. A plain value, also a part of the device's state.
struct RxFilter {
  MacAddress own{};
  // On until the driver says otherwise: one that never filters gets everything.
  bool promiscuous = true;
  bool all_multicast = false;
  bool all_unicast = false;
  bool no_multicast = false;
  bool no_unicast = false;
  bool no_broadcast = false;
  RxTable unicast{};
  RxTable multicast{};

  bool Accepts(const MacAddress& destination) const;
};

}  // namespace wyvern::devices
