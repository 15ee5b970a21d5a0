// network/guest_network.h — what a scan means for a guest: the agent's SetNetwork, and what has changed since the last one.
// Threads: any; pure.
#pragma once

#include <vector>

#include "network/scan.h"
#include "proto/agent.pb.h"

namespace wyvern::runtime {

// All of the scan but interfaces that are down, which a guest is told of when they are up; of those it has neither routes nor neighbours.
wyvern::agent::v1::SetNetworkRequest ToSetNetwork(const NetworkScan& scan);

struct NetworkChange {
  // To be disconnected, then connected. One whose MAC, MTU or kind is another by now is in both: a device's cannot be changed in a guest.
  std::vector<int> went;  // indices
  std::vector<Interface> came;
  bool guest = false;  // SetNetwork is due, after that

  bool operator==(const NetworkChange&) const = default;
};

NetworkChange Compare(const NetworkScan& before, const NetworkScan& now);

}  // namespace wyvern::runtime
