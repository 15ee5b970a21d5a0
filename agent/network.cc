#include "agent/network.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/network_links.h"
#include "agent/network_messages.h"

namespace wyvern::agent {
namespace {

constexpr std::chrono::seconds kDeadline(10);
constexpr int kLoopbackIndex = 1;  // LOOPBACK_IFINDEX: in every namespace

class NetworkJob final : public Job {
 public:
  NetworkJob(NetworkSetter& setter, WantedNetwork wanted, ttrpc::Responder<v1::Empty> responder)
      : setter_(setter), wanted_(std::move(wanted)), responder_(std::move(responder)) {}

  Progress Step() override {
    responder_.Answer(setter_.Set(wanted_).map([] { return v1::Empty(); }));
    return Progress::kDone;
  }

  void Expire() override {
    responder_.Fail(Error(Code::kDeadlineExceeded,
                          "the guest's kernel is not done with its network within 10 s: something "
                          "in the guest keeps it busy with network devices or routes"));
  }

 private:
  NetworkSetter& setter_;
  const WantedNetwork wanted_;
  const ttrpc::Responder<v1::Empty> responder_;
};

// To take away what is gone is no failure.
bool IsGone(const Error& error) {
  constexpr std::array<int, 5> kGone = {ESRCH, ENOENT, ENODEV, ENXIO, EADDRNOTAVAIL};
  return std::ranges::find(kGone, error.sys_errno()) != kGone.end();
}

std::string NameOf(const Route& route) {
  std::string text = ToText(route.destination);
  if (route.gateway.is_set()) {
    text += " by " + ToText(route.gateway);
  }
  return text;
}

std::string NameOf(const LinkAddress& address) {
  return ToText(address.local);
}

std::string NameOf(const Neighbour& neighbour) {
  return ToText(neighbour.address);
}

// Of `ours`, what is not in `wanted` goes from both the kernel and the set; what the kernel does not let go stays in the set.
template <typename Item, typename Wanted, typename Remove>
void RemoveOldOf(const char* what, std::set<Item>& ours, const Wanted& wanted, Remove remove,
                 RouteSocket& socket, Refusals& refusals) {
  for (auto it = ours.begin(); it != ours.end();) {
    if (wanted.contains(*it)) {
      ++it;
      continue;
    }
    auto removed = socket.Change(remove(*it));
    if (removed || IsGone(removed.error())) {
      it = ours.erase(it);
      continue;
    }
    refusals.AddKernels(std::move(removed).error(),
                        fmt::format("taking away the {} {}", what, NameOf(*it)));
    ++it;
  }
}

// Which of `wanted` the kernel has.
template <typename Item, typename Read>
Result<std::set<Item>> ListPresent(const char* what, RouteSocket& socket, NetlinkRequest request,
                                   const std::set<Item>& wanted, Read read) {
  std::set<Item> present;
  WV_TRY_VOID_CONTEXT(socket.List(std::move(request),
                                  [&](const NetlinkMessage& message) {
                                    if (const auto item = read(message);
                                        item && wanted.contains(*item)) {
                                      present.insert(*item);
                                    }
                                  }),
                      fmt::format("listing the guest's {}", what));
  return present;
}

}  // namespace

// Each list in the order of the request, with the entry's name for errors' texts; and as a set.
struct NetworkSetter::Target {
  template <typename Item>
  struct List {
    std::vector<std::pair<std::string, Item>> in_order;
    std::set<Item> all;

    void Add(std::string entry, const Item& item) {
      in_order.emplace_back(std::move(entry), item);
      all.insert(item);
    }
  };

  List<LinkAddress> addresses;
  List<Neighbour> neighbours;
  List<Route> routes;
};

// What is on an interface that was not found is left out: that there is none is told already.
NetworkSetter::Target NetworkSetter::Resolve(const WantedNetwork& wanted,
                                             const std::vector<int>& found) {
  Target target;
  std::map<std::string, int> numbers = {{"lo", kLoopbackIndex}};
  for (size_t i = 0; i < wanted.interfaces.size(); ++i) {
    const WantedInterface& interface = wanted.interfaces[i];
    numbers[interface.name] = found[i];
    for (size_t j = 0; j < interface.addresses.size() && found[i] != 0; ++j) {
      LinkAddress address = interface.addresses[j];
      address.link = found[i];
      target.addresses.Add(fmt::format("interface[{}].address[{}]", i, j), address);
    }
  }
  for (size_t i = 0; i < wanted.neighbours.size(); ++i) {
    Neighbour neighbour = wanted.neighbours[i].neighbour;
    neighbour.link = numbers[wanted.neighbours[i].interface];
    if (neighbour.link != 0) {
      target.neighbours.Add(fmt::format("neighbour[{}]", i), neighbour);
    }
  }
  for (size_t i = 0; i < wanted.routes.size(); ++i) {
    const std::string& interface = wanted.routes[i].interface;
    Route route = wanted.routes[i].route;
    route.link = interface.empty() ? 0 : numbers[interface];
    if (interface.empty() || route.link != 0) {
      target.routes.Add(fmt::format("route[{}]", i), route);
    }
  }
  return target;
}

void NetworkSetter::RemoveOld(RouteSocket& socket, const Target& target, Refusals& refusals) {
  RemoveOldOf("route", routes_, target.routes.all, RemoveRoute, socket, refusals);
  RemoveOldOf("neighbour", neighbours_, target.neighbours.all, RemoveNeighbour, socket, refusals);
  RemoveOldOf("address", addresses_, target.addresses.all, RemoveAddress, socket, refusals);
}

Result<> NetworkSetter::AddAddresses(RouteSocket& socket, const Target& target,
                                     Refusals& refusals) {
  WV_TRY(std::set<LinkAddress> present, ListPresent("addresses", socket, ListAddresses(),
                                                    target.addresses.all, ReadAddressMessage));
  for (const auto& [entry, address] : target.addresses.in_order) {
    addresses_.insert(address);
    if (!present.insert(address).second) {
      continue;
    }
    auto added = socket.Change(AddAddress(address));
    // There with another broadcast address or scope, which the kernel does not change.
    if (!added && added.error().sys_errno() == EEXIST && socket.Change(RemoveAddress(address))) {
      added = socket.Change(AddAddress(address));
    }
    if (!added) {
      refusals.AddKernels(std::move(added).error(), fmt::format("{} {}", entry, NameOf(address)));
    }
  }
  return {};
}

Result<> NetworkSetter::AddNeighbours(RouteSocket& socket, const Target& target,
                                      Refusals& refusals) {
  WV_TRY(std::set<Neighbour> present, ListPresent("neighbours", socket, ListNeighbours(),
                                                  target.neighbours.all, ReadNeighbourMessage));
  for (const auto& [entry, neighbour] : target.neighbours.in_order) {
    neighbours_.insert(neighbour);
    if (!present.insert(neighbour).second) {
      continue;
    }
    if (auto set = socket.Change(SetNeighbour(neighbour)); !set) {
      refusals.AddKernels(std::move(set).error(), fmt::format("{} {}", entry, NameOf(neighbour)));
    }
  }
  return {};
}

Result<> NetworkSetter::AddRoutes(RouteSocket& socket, const Target& target, Refusals& refusals) {
  WV_TRY(std::set<Route> present,
         ListPresent("routes", socket, ListRoutes(), target.routes.all, ReadRouteMessage));
  // The kernel's key of a route. A second one of a key is another way to the same place, not instead of the first.
  std::set<std::pair<IpPrefix, uint32_t>> keys;
  for (const auto& [entry, route] : target.routes.in_order) {
    const bool first = keys.emplace(route.destination, route.metric).second;
    routes_.insert(route);
    if (!present.insert(route).second) {
      continue;
    }
    if (auto added = socket.Change(
            AddRoute(route, first ? uint16_t{NLM_F_REPLACE} : uint16_t{NLM_F_APPEND}));
        !added) {
      refusals.AddKernels(std::move(added).error(), fmt::format("{} {}", entry, NameOf(route)));
    }
  }
  return {};
}

Result<> NetworkSetter::Set(const WantedNetwork& wanted) {
  // One of its own for each call, so that nothing late of the last one is in it.
  WV_TRY(RouteSocket socket, RouteSocket::Open());
  Refusals refusals;
  LinkSetter links(socket, wanted.interfaces, links_, refusals);
  WV_TRY_VOID(links.Find());
  const Target target = Resolve(wanted, links.found());
  RemoveOld(socket, target, refusals);
  std::set<int> ours = links.TakeLeftDown();
  links.Rename();
  links.Configure();
  for (const int index : links.found()) {
    if (index != 0) {
      ours.insert(index);
    }
  }
  links_ = std::move(ours);
  WV_TRY_VOID(AddAddresses(socket, target, refusals));
  WV_TRY_VOID(AddNeighbours(socket, target, refusals));
  WV_TRY_VOID(AddRoutes(socket, target, refusals));
  return std::move(refusals).Take();
}

GuestNetwork::GuestNetwork(EventLoop& loop, bool owns_machine)
    : owns_machine_(owns_machine), lane_(loop, "network") {}

void GuestNetwork::Set(const v1::SetNetworkRequest& request,
                       const ttrpc::Responder<v1::Empty>& responder) {
  auto submitted = ParseNetwork(request).and_then([&](WantedNetwork wanted) -> Result<> {
    if (!owns_machine_) {
      responder.Ok({});
      return {};
    }
    return lane_.Submit(std::make_shared<NetworkJob>(setter_, std::move(wanted), responder),
                        std::chrono::steady_clock::now() + kDeadline);
  });
  if (!submitted) {
    responder.Fail(std::move(submitted).error());
  }
}

}  // namespace wyvern::agent
