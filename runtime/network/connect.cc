#include "network/connect.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "network/attributes.h"
#include "network/link.h"
#include "network/netlink.h"
#include "network/netns.h"
#include "network/redirect.h"
#include "network/scan_reader.h"

namespace wyvern::runtime {
namespace {

// It is what the scan said, and can be connected.
Result<> LookAgain(Netlink& netlink, const Interface& interface) {
  ScanReader reader;
  WV_TRY_VOID(netlink.Dump(RTM_GETLINK, ifinfomsg{}, "listing network interfaces",
                           [&](nlmsghdr* message) { return reader.Add(message); }));
  const auto found =
      std::find_if(reader.links().begin(), reader.links().end(), [&](const Link& link) {
        return link.interface.index == interface.index && link.interface.mac == interface.mac;
      });
  if (found == reader.links().end()) {
    return Fail(Code::kNotFound, "it is gone, or another has its number");
  }
  if (const std::string why = WhyNotConnected(*found, reader.links()); !why.empty()) {
    return Fail(Code::kFailedPrecondition, why);
  }
  return {};
}

Result<UniqueFd> OpenTap(const std::string& name, unsigned flags) {
  WV_TRY(UniqueFd tap, Open("/dev/net/tun", O_RDWR | O_NONBLOCK));
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags);
  if (ioctl(tap.get(), TUNSETIFF, &request) != 0) {
    if (errno == EBUSY) {
      return Fail(Code::kAlreadyExists,
                  "its tap, " + name +
                      ", is in use: it is connected to another guest; two sandboxes cannot share a "
                      "network namespace (--network container:…): give it one of its own, or "
                      "make both containers of one pod");
    }
    return SysError("ioctl(TUNSETIFF) " + name);
  }
  return tap;
}

// Down: nothing has been sent to it yet.
Result<std::vector<UniqueFd>> MakeTaps(const std::string& name, unsigned queues) {
  const unsigned several = queues > 1 ? IFF_MULTI_QUEUE : 0U;
  std::vector<UniqueFd> taps;
  for (unsigned i = 0; i < queues; ++i) {
    // Without EXCL the first would become one more queue of a tap that is there.
    const unsigned alone = i == 0 ? IFF_TUN_EXCL : 0U;
    WV_TRY(taps.emplace_back(), OpenTap(name, several | alone));
  }
  return taps;
}

Result<> SetUpTap(const std::string& name, uint32_t mtu) {
  // Else the host's own stack would look for its neighbours and routers on the tap: the guest would hear them.
  Result<> without = WriteFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6", "1");
  if (!without.has_value() && without.error().code() != Code::kNotFound) {  // no IPv6 at all
    return without;
  }
  const UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket_fd.valid()) {
    return SysError("socket");
  }
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_mtu = static_cast<int>(mtu);
  if (ioctl(socket_fd.get(), SIOCSIFMTU, &request) != 0) {
    return SysError("ioctl(SIOCSIFMTU) " + name);
  }
  return BringUp(name);
}

Result<ConnectedInterface> ConnectHere(const Interface& interface, unsigned queues) {
  WV_TRY(Netlink netlink, Netlink::Open());
  WV_TRY_VOID(LookAgain(netlink, interface));
  ConnectedInterface out;
  out.tap_name = TapName(interface.index);
  out.mac = interface.mac;
  out.mtu = interface.mtu;
  WV_TRY(out.taps, MakeTaps(out.tap_name, queues));
  WV_TRY_VOID(SetUpTap(out.tap_name, interface.mtu));
  const auto tap = static_cast<int>(if_nametoindex(out.tap_name.c_str()));
  if (tap == 0) {
    return SysError("if_nametoindex " + out.tap_name);
  }
  WV_TRY_VOID_CONTEXT(AddRedirect(netlink, tap, interface.index), out.tap_name);
  // Last: from now on the packets are the guest's.
  WV_TRY_VOID(AddRedirect(netlink, interface.index, tap));
  return out;
}

// The index of the tap of that name; 0: there is none.
Result<int> FindTap(Netlink& netlink, const std::string& name) {
  int index = 0;
  WV_TRY_VOID(netlink.Dump(
      RTM_GETLINK, ifinfomsg{}, "listing network interfaces", [&](nlmsghdr* message) -> Result<> {
        ifinfomsg header{};
        WV_TRY(const auto attributes, Attributes<IFLA_MAX>::OfMessage(message, &header));
        const auto info = Attributes<IFLA_INFO_MAX>::Nested(attributes[IFLA_LINKINFO]);
        if (attributes.Text(IFLA_IFNAME) == name && info.Text(IFLA_INFO_KIND) == "tun") {
          index = header.ifi_index;
        }
        return {};
      }));
  return index;
}

Result<> RemoveTap(Netlink& netlink, const std::string& name) {
  WV_TRY(const int index, FindTap(netlink, name));
  if (index == 0) {
    return {};
  }
  NetlinkMessage request(nlmsg_alloc_simple(RTM_DELLINK, 0));
  ifinfomsg which{};
  which.ifi_index = index;
  WV_CHECK(request != nullptr &&
           nlmsg_append(request.get(), &which, sizeof(which), NLMSG_ALIGNTO) == 0);
  Result<> removed = netlink.Request(std::move(request), "removing " + name);
  if (!removed.has_value() && removed.error().sys_errno() != ENODEV) {
    return removed;
  }
  return {};
}

}  // namespace

Result<ConnectedInterface> ConnectInterface(FdRef network_namespace, const Interface& interface,
                                            unsigned queues) {
  WV_CHECK(queues >= 1 && queues <= kMaxQueues);
  WV_TRY_VOID(RefuseHostNamespace(network_namespace));
  ConnectedInterface out;
  WV_TRY_VOID_CONTEXT(InNetworkNamespace(network_namespace,
                                         [&]() -> Result<> {
                                           WV_TRY(out, ConnectHere(interface, queues));
                                           return {};
                                         }),
                      "connecting " + interface.name + " to the guest");
  return out;
}

Result<> DisconnectInterface(FdRef network_namespace, int index) {
  WV_TRY_VOID(RefuseHostNamespace(network_namespace));
  return InNetworkNamespace(network_namespace, [&]() -> Result<> {
    WV_TRY(Netlink netlink, Netlink::Open());
    WV_TRY_VOID(RemoveRedirect(netlink, index));
    return RemoveTap(netlink, TapName(index));
  });
}

}  // namespace wyvern::runtime
