#include "agent/network_links.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>
#include <utility>

namespace wyvern::agent {
namespace {

// At most 15 bytes: numbers are positive ints.
std::string TemporaryName(int index) {
  return fmt::format("wvtmp{}", index);
}

const MacAddress& OwnMac(const Link& link) {
  return link.permanent == MacAddress() ? link.mac : link.permanent;
}

}  // namespace

std::vector<size_t> MatchLinks(const std::vector<WantedInterface>& interfaces,
                               const std::vector<Link>& links) {
  std::vector<size_t> matches;
  for (const WantedInterface& interface : interfaces) {
    size_t best = links.size();
    for (size_t i = 0; i < links.size(); ++i) {
      const bool better = best == links.size() || (links[best].made && !links[i].made);
      if (OwnMac(links[i]) == interface.mac && better) {
        best = i;
      }
    }
    matches.push_back(best);
  }
  return matches;
}

Result<> LinkSetter::Find() {
  std::set<MacAddress> macs;
  std::set<std::string> names;
  for (const WantedInterface& interface : interfaces_) {
    macs.insert(interface.mac);
    names.insert(interface.name);
  }
  std::map<int, Link> links;  // a list that was read again has them twice
  WV_TRY_VOID_CONTEXT(
      socket_.List(ListLinks(),
                   [&](const NetlinkMessage& message) {
                     auto link = ReadLink(message);
                     if (link && (macs.contains(OwnMac(*link)) || names.contains(link->name) ||
                                  ours_.contains(link->index))) {
                       links[link->index] = *std::move(link);
                     }
                   }),
      "listing the guest's network devices");
  for (auto& [index, link] : links) {
    links_.push_back(std::move(link));
  }
  matches_ = MatchLinks(interfaces_, links_);
  for (size_t i = 0; i < interfaces_.size(); ++i) {
    const Link* link = At(i);
    found_.push_back(link == nullptr ? 0 : link->index);
    if (link == nullptr) {
      refusals_.Add(Error(Code::kNotFound,
                          fmt::format("interface[{}] {}: no network device of the guest has the "
                                      "MAC {}",
                                      i, interfaces_[i].name, ToText(interfaces_[i].mac))));
    }
  }
  return {};
}

Link* LinkSetter::At(size_t interface) {
  const size_t place = matches_[interface];
  return place < links_.size() ? &links_[place] : nullptr;
}

bool LinkSetter::IsFound(int index) const {
  return std::ranges::find(found_, index) != found_.end();
}

std::set<int> LinkSetter::left() const {
  std::set<int> out;
  for (const Link& link : links_) {
    if (ours_.contains(link.index) && !IsFound(link.index)) {
      out.insert(link.index);
    }
  }
  return out;
}

std::set<int> LinkSetter::TakeLeftDown() {
  const std::set<int> leaving = left();
  std::set<int> refused;
  for (Link& link : links_) {
    if (!leaving.contains(link.index) || (link.flags & IFF_UP) == 0) {
      continue;
    }
    auto down = socket_.Change(SetLinkFlags(link.index, 0, IFF_UP));
    if (down) {
      link.flags &= ~unsigned{IFF_UP};
    } else if (down.error().sys_errno() != ENODEV) {
      refused.insert(link.index);
      refusals_.AddKernels(std::move(down).error(), link.name + " is to go, taking it down");
    }
  }
  return refused;
}

bool LinkSetter::MayLoseName(const Link& link) const {
  return !link.made || ours_.contains(link.index) || IsFound(link.index);
}

void LinkSetter::RenameOne(Link& link, const std::string& name) {
  auto renamed = socket_.Change(RenameLink(link.index, name));
  // Before Linux 6.2 a device that is up keeps its name. Configure has it up again.
  if (!renamed && renamed.error().sys_errno() == EBUSY && (link.flags & IFF_UP) != 0 &&
      socket_.Change(SetLinkFlags(link.index, 0, IFF_UP))) {
    link.flags &= ~unsigned{IFF_UP};
    renamed = socket_.Change(RenameLink(link.index, name));
  }
  if (renamed) {
    link.name = name;
  } else {
    refusals_.AddKernels(std::move(renamed).error(),
                         fmt::format("renaming the interface {} to {}", link.name, name));
  }
}

void LinkSetter::Rename() {
  for (size_t i = 0; i < interfaces_.size(); ++i) {
    const Link* link = At(i);
    if (link == nullptr || link->name == interfaces_[i].name) {
      continue;
    }
    const auto holder = std::ranges::find(links_, interfaces_[i].name, &Link::name);
    if (holder != links_.end() && MayLoseName(*holder)) {
      RenameOne(*holder, TemporaryName(holder->index));
    }
  }
  for (size_t i = 0; i < interfaces_.size(); ++i) {
    Link* link = At(i);
    if (link != nullptr && link->name != interfaces_[i].name) {
      RenameOne(*link, interfaces_[i].name);
    }
  }
}

void LinkSetter::Configure() {
  constexpr uint32_t kFlags = IFF_UP | IFF_NOARP;
  for (size_t i = 0; i < interfaces_.size(); ++i) {
    const WantedInterface& wanted = interfaces_[i];
    const Link* link = At(i);
    if (link == nullptr) {
      continue;
    }
    if (link->mtu != wanted.mtu) {
      if (auto set = socket_.Change(SetLinkMtu(link->index, wanted.mtu)); !set) {
        refusals_.AddKernels(std::move(set).error(),
                             fmt::format("interface[{}] {}: MTU {}", i, wanted.name, wanted.mtu));
      }
    }
    const uint32_t flags = IFF_UP | (wanted.no_arp ? uint32_t{IFF_NOARP} : 0U);
    if ((link->flags & kFlags) != flags) {
      if (auto set = socket_.Change(SetLinkFlags(link->index, flags, kFlags)); !set) {
        refusals_.AddKernels(std::move(set).error(),
                             fmt::format("interface[{}] {}: taking it up", i, wanted.name));
      }
    }
  }
}

}  // namespace wyvern::agent
