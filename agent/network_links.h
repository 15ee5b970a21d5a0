// agent/network_links.h — which of the guest's network devices is which of the host's interfaces, and that it has its name, MTU and flags.
// Shape:   a device is found by the MAC it was made with, which a container with CAP_NET_ADMIN cannot change; one that software made
//          (a bridge takes over its port's MAC, a vlan its device's) only where there is no other.
// Names:   one that another device has is made free: that device gets "wvtmp<number>", and its own name later if it is among those
//          asked for. But what a container has made keeps its name, and the error is the kernel's EEXIST.
// Threads: any.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "agent/network_messages.h"
#include "agent/network_request.h"
#include "agent/refusals.h"
#include "agent/rtnetlink.h"

namespace wyvern::agent {

// Where each of `interfaces` is in `links`; the links' size: nowhere.
std::vector<size_t> MatchLinks(const std::vector<WantedInterface>& interfaces,
                               const std::vector<Link>& links);

class LinkSetter {
 public:
  // All of them outlive it. `ours`: devices that were asked for before.
  LinkSetter(RouteSocket& socket, const std::vector<WantedInterface>& interfaces,
             const std::set<int>& ours, Refusals& refusals)
      : socket_(socket), interfaces_(interfaces), ours_(ours), refusals_(refusals) {}

  // An error: the kernel shows nothing, and nothing was changed.
  Result<> Find();

  // The numbers of `interfaces`; 0: there is none, which is among the refusals.
  const std::vector<int>& found() const { return found_; }

  // Devices of `ours` that are still there and not asked for now.
  std::set<int> left() const;
  // Takes them down. Returns those that would not.
  std::set<int> TakeLeftDown();
  void Rename();
  // MTU and flags; up.
  void Configure();

 private:
  Link* At(size_t interface);
  bool IsFound(int index) const;
  bool MayLoseName(const Link& link) const;
  void RenameOne(Link& link, const std::string& name);

  RouteSocket& socket_;
  const std::vector<WantedInterface>& interfaces_;
  const std::set<int>& ours_;
  Refusals& refusals_;
  std::vector<Link> links_;  // those that matter here, as they are now
  std::vector<size_t> matches_;
  std::vector<int> found_;
};

}  // namespace wyvern::agent
