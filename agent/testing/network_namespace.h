// agent/testing/network_namespace.h — a network namespace of a test's own, with veth pairs in place of a guest's devices, and a look at what is in
//                                     it by other means than those of the code under test (/proc/net).
// Needs:   root; the namespace goes with the object. The test's thread is in it, and threads that it starts.
#pragma once

#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <sched.h>

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "agent/network_messages.h"
#include "agent/rtnetlink.h"
#include "base/check.h"
#include "base/fd.h"
#include "base/testing/must.h"

namespace wyvern::agent {

inline MacAddress MacOf(uint8_t number) {
  return {2, 0, 0, 0, 0, number};
}

class NetworkNamespace {
 public:
  // Nothing: this process may not have one.
  static std::unique_ptr<NetworkNamespace> Enter() {
    auto before = Open("/proc/thread-self/ns/net", O_RDONLY);
    if (!before || unshare(CLONE_NEWNET) != 0) {
      return nullptr;
    }
    return std::unique_ptr<NetworkNamespace>(new NetworkNamespace(*std::move(before)));
  }

  ~NetworkNamespace() { WV_CHECK(setns(before_.get(), CLONE_NEWNET) == 0); }

  NetworkNamespace(const NetworkNamespace&) = delete;
  NetworkNamespace& operator=(const NetworkNamespace&) = delete;

  RouteSocket& socket() { return socket_; }

  // Its other end is up and has a name of the kernel's choice.
  void AddVeth(const std::string& name, const MacAddress& mac) {
    const std::set<int> before = Indices();
    AddDevice("veth", name, mac);
    for (const int index : Indices()) {
      if (!before.contains(index) && Find(name)->index != index) {
        Must(socket_.Change(SetLinkFlags(index, IFF_UP, IFF_UP)).map([] { return 0; }));
      }
    }
  }

  void AddBridge(const std::string& name, const MacAddress& mac) { AddDevice("bridge", name, mac); }

  std::optional<Link> Find(const std::string& name) {
    std::optional<Link> found;
    ForEachLink([&](const Link& link) {
      if (link.name == name) {
        found = link;
      }
    });
    return found;
  }

  // /proc/net, as this thread's namespace has it.
  static std::string Proc(const std::string& file) {
    return ReadFile("/proc/thread-self/net/" + file).value_or("");
  }

  bool Has(const LinkAddress& address) {
    return Shows(ListAddresses(), address, ReadAddressMessage);
  }

  bool Has(const Route& route) { return Shows(ListRoutes(), route, ReadRouteMessage); }

  bool Has(const Neighbour& neighbour) {
    return Shows(ListNeighbours(), neighbour, ReadNeighbourMessage);
  }

 private:
  explicit NetworkNamespace(UniqueFd before)
      : before_(std::move(before)), socket_(Must(RouteSocket::Open())) {}

  template <typename Handle>
  void ForEachLink(Handle handle) {
    Must(socket_
             .List(ListLinks(),
                   [&](const NetlinkMessage& message) {
                     if (const auto link = ReadLink(message); link) {
                       handle(*link);
                     }
                   })
             .map([] { return 0; }));
  }

  template <typename Item, typename Read>
  bool Shows(NetlinkRequest request, const Item& item, Read read) {
    bool shown = false;
    Must(socket_
             .List(std::move(request),
                   [&](const NetlinkMessage& message) { shown = shown || read(message) == item; })
             .map([] { return 0; }));
    return shown;
  }

  std::set<int> Indices() {
    std::set<int> indices;
    ForEachLink([&](const Link& link) { indices.insert(link.index); });
    return indices;
  }

  void AddDevice(const char* kind, const std::string& name, const MacAddress& mac) {
    NetlinkRequest request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, ifinfomsg{});
    request.AddText(IFLA_IFNAME, name);
    request.Add(IFLA_ADDRESS, std::span<const uint8_t>(mac));
    const size_t info = request.Begin(IFLA_LINKINFO);
    request.AddText(IFLA_INFO_KIND, kind);
    request.End(info);
    Must(socket_.Change(std::move(request)).map([] { return 0; }));
  }

  UniqueFd before_;  // what the thread was in
  RouteSocket socket_;
};

}  // namespace wyvern::agent
