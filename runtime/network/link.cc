#include "network/link.h"

#include <linux/if_link.h>
#include <net/if.h>
#include <net/if_arp.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "base/plain_text.h"
#include "base/utf8.h"

namespace wyvern::runtime {
namespace {

// One of each in every namespace, as soon as the module is loaded (Linux: fb_tunnels_only_for_init_net).
constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kFallbackTunnels = {{
    {"ipip", "tunl0"},
    {"gre", "gre0"},
    {"gretap", "gretap0"},
    {"erspan", "erspan0"},
    {"vti", "ip_vti0"},
    {"vti6", "ip6_vti0"},
    {"sit", "sit0"},
    {"ip6tnl", "ip6tnl0"},
    {"ip6gre", "ip6gre0"},
}};

// Ethernet devices which are not there to carry a pod's packets.
constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kNotForGuests = {{
    {"vrf", "a vrf chooses routes and carries no packets; give the pod an interface without one"},
    {"ifb", "an ifb carries what tc sends it, and nothing of its own"},
    {"macvtap", "who opened its device file has its packets; use macvlan"},
    {"ipvtap", "who opened its device file has its packets; use ipvlan in mode l2"},
}};

// What the agent takes: dev_valid_name() of Linux without control bytes, and a text that protobuf carries. '%' is a pattern where an interface is
// renamed.
bool GuestCanBeTold(std::string_view name) {
  if (name.empty() || name.size() >= IFNAMSIZ || name == "." || name == ".." || name == "lo") {
    return false;
  }
  if (std::any_of(name.begin(), name.end(), [](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return byte <= ' ' || byte == 0x7f || c == '/' || c == ':' || c == '%';
      })) {
    return false;
  }
  for (size_t at = 0; at < name.size();) {
    const size_t length = Utf8Length(name.substr(at));
    if (length == 0) {
      return false;
    }
    at += length;
  }
  return true;
}

// Those that are made over another device; IFLA_LINK of a veth is its peer.
bool IsStacked(std::string_view kind) {
  return kind == "vlan" || kind == "macvlan" || kind == "ipvlan";
}

std::string NameOf(int index, std::span<const Link> all) {
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const Link& l) { return l.interface.index == index; });
  return found == all.end() ? std::string() : PlainText(found->interface.name, IFNAMSIZ);
}

bool OneStation(const MacAddress& mac) {
  return (mac[0] & 1) == 0 && mac != MacAddress{};
}

}  // namespace

bool IsNobodys(const Link& link) {
  const Interface& it = link.interface;
  if ((link.flags & IFF_LOOPBACK) != 0) {
    return true;
  }
  if (it.kind == "tun" && it.name.size() > 2 && it.name.starts_with("wv") &&
      it.name.find_first_not_of("0123456789", 2) == std::string::npos) {
    return true;
  }
  return std::find(kFallbackTunnels.begin(), kFallbackTunnels.end(),
                   std::pair<std::string_view, std::string_view>(it.kind, it.name)) !=
         kFallbackTunnels.end();
}

std::string WhyNotConnected(const Link& link, std::span<const Link> all) {
  const Interface& it = link.interface;
  if (link.type != ARPHRD_ETHER) {
    return "it carries no Ethernet frames, as the interface of a guest does";
  }
  for (const auto& [kind, reason] : kNotForGuests) {
    if (it.kind == kind) {
      return std::string(reason);
    }
  }
  if (it.kind == "ipvlan" && link.ipvlan_mode != IPVLAN_MODE_L2) {
    return "its ipvlan mode carries neither ARP nor broadcasts; use mode l2";
  }
  if (!OneStation(it.mac)) {
    return "its MAC address is not that of one station; of a netkit, use mode l2";
  }
  if (link.controller != 0) {
    const std::string name = NameOf(link.controller, all);
    return "it is a port" + (name.empty() ? "" : " of " + name) + ", which has its packets";
  }
  if (IsStacked(it.kind) && link.lower != 0) {
    const std::string name = NameOf(link.lower, all);
    if (!name.empty()) {
      return "it is on top of " + name +
             ", whose packets all go to the guest; leave only one of them in the namespace";
    }
  }
  if (it.mtu < 68) {  // RFC 791
    return "its MTU is less than IPv4's least, 68";
  }
  if (!GuestCanBeTold(it.name)) {
    return "its name cannot be told to a guest; rename it to plain letters and digits";
  }
  return {};
}

}  // namespace wyvern::runtime
