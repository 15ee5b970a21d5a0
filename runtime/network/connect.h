// network/connect.h — an interface of a pod's network namespace given to a guest.
// Method:  a tap beside it, and a redirection each way: what arrives on the interface is what the guest's device receives, and what the guest
//          sends is sent by the interface. The guest gets the interface's MAC and addresses; the interface keeps them, which is what
//          CNI plugins and CRI's statistics look at, but hears nothing any more: a process of the host in that namespace cannot use it.
// Undone:  the tap goes with its last descriptor. The redirection on the interface does not: DisconnectInterface, by any process.
// Trust:   what comes out of the taps is the guest's.   Threads: any; blocks for as long as the kernel takes, at most kNetlinkDeadline a step.
#pragma once

#include <string>
#include <vector>

#include "network/scan.h"

namespace wyvern::runtime {

inline constexpr unsigned kMaxQueues = 8;  // agent-proto/proto/vmm.proto: Net

struct ConnectedInterface {
  // One a pair of queues: IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, and IFF_MULTI_QUEUE if there are several; O_NONBLOCK.
  std::vector<UniqueFd> taps;
  std::string tap_name;
  // What the guest's device is to have. The tap has that MTU; of an interface whose MTU changes it is to be connected anew.
  MacAddress mac{};
  uint32_t mtu = 0;
};

// `interface` is one of a scan; `queues` is 1 to kMaxQueues. An error leaves nothing behind.
// NOT_FOUND: it is gone, or is another by now: scan again. FAILED_PRECONDITION: the namespace is the host's (RefuseHostNamespace), what the
// interface is by now cannot be connected (WhyNotConnected), or AddRedirect's. ALREADY_EXISTS: it is connected to somebody's guest.
Result<ConnectedInterface> ConnectInterface(FdRef network_namespace, const Interface& interface,
                                            unsigned queues);

// Idempotent, and needs nothing of the process that connected it. A tap that somebody still has open is taken from him. Nothing of anybody
// else is touched; an interface that is gone is disconnected.
Result<> DisconnectInterface(FdRef network_namespace, int index);

}  // namespace wyvern::runtime
