// agent/network.h — makes the guest's own network namespace what SetNetwork of agent.proto says.
// Shape:   what is missing is added; what an earlier call has set and this one does not have is taken away. The rest stays: the kernel's
//          own, and what containers have made (docker's bridges, the routes of a VPN). What is there already is not touched, so that the
//          same again changes nothing.
// Order:   what is old goes: routes, neighbours, addresses, devices. Then names, MTU and up; addresses, neighbours, routes: each needs those
//          before it.
// Errors:  what fails does not keep the rest from being done. The first error is told, with the entry, and how many there are. NOT_FOUND:
//          no device has that MAC; FAILED_PRECONDITION: the kernel refuses, with its errno.
// Threads: NetworkSetter: one at a time, any thread of the namespace; blocks as long as somebody keeps the kernel's RTNL lock, which a
//          container with CAP_NET_ADMIN can make long. GuestNetwork: the loop's; the work is on a lane's.
#pragma once

#include <set>

#include "agent/lane.h"
#include "agent/network_request.h"
#include "agent/refusals.h"
#include "agent/rtnetlink.h"
#include "proto/agent.pb.h"
#include "ttrpc/call.h"

namespace wyvern::agent {

class NetworkSetter {
 public:
  Result<> Set(const WantedNetwork& wanted);

 private:
  // What the namespace gets, with the kernel's numbers of the interfaces.
  struct Target;

  static Target Resolve(const WantedNetwork& wanted, const std::vector<int>& found);
  void RemoveOld(RouteSocket& socket, const Target& target, Refusals& refusals);
  Result<> AddAddresses(RouteSocket& socket, const Target& target, Refusals& refusals);
  Result<> AddNeighbours(RouteSocket& socket, const Target& target, Refusals& refusals);
  Result<> AddRoutes(RouteSocket& socket, const Target& target, Refusals& refusals);

  // What calls have set, as far as it is not known to be gone.
  std::set<int> links_;
  std::set<LinkAddress> addresses_;
  std::set<Neighbour> neighbours_;
  std::set<Route> routes_;
};

class GuestNetwork {
 public:
  // `owns_machine` false: requests are only checked.
  GuestNetwork(EventLoop& loop, bool owns_machine);
  ~GuestNetwork() = default;
  GuestNetwork(const GuestNetwork&) = delete;
  GuestNetwork& operator=(const GuestNetwork&) = delete;

  // Calls are done one after the other. DEADLINE_EXCEEDED after 10 s; what has begun then is done all the same.
  void Set(const v1::SetNetworkRequest& request, const ttrpc::Responder<v1::Empty>& responder);

 private:
  const bool owns_machine_;
  NetworkSetter setter_;  // the lane's thread only
  // Last: its thread ends before what its jobs refer to.
  Lane lane_;
};

}  // namespace wyvern::agent
