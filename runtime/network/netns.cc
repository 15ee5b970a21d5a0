#include "network/netns.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>

#include "base/cleanup.h"
#include "storage/rootfs.h"

namespace wyvern::runtime {
namespace {

Result<std::vector<std::string>> ListOurInterfaces() {
  struct if_nameindex* list = if_nameindex();
  if (list == nullptr) {
    return SysError("listing network interfaces");
  }
  const Cleanup free_list([list] { if_freenameindex(list); });
  std::vector<std::string> out;
  for (const struct if_nameindex* item = list; item->if_index != 0; ++item) {
    if (std::strcmp(item->if_name, "lo") != 0) {
      out.emplace_back(item->if_name);
    }
  }
  return out;
}

Result<> LoopbackUp() {
  const UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket_fd.valid()) {
    return SysError("socket");
  }
  ifreq request = {};
  std::strcpy(request.ifr_name, "lo");
  if (ioctl(socket_fd.get(), SIOCGIFFLAGS, &request) != 0) {
    return SysError("ioctl(SIOCGIFFLAGS) lo");
  }
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (ioctl(socket_fd.get(), SIOCSIFFLAGS, &request) != 0) {
    return SysError("ioctl(SIOCSIFFLAGS) lo");
  }
  return {};
}

}  // namespace

Result<NetworkNamespace> OpenNetworkNamespace(const std::string& path) {
  NetworkNamespace out;
  WV_TRY_CONTEXT(out.fd, Open(path, O_RDONLY), "network namespace");
  if (ioctl(out.fd.get(), NS_GET_NSTYPE) != CLONE_NEWNET) {
    return Fail(Code::kInvalidArgument,
                "linux.namespaces: " + path + " is not a network namespace");
  }
  WV_TRY_CONTEXT(out.interfaces, ListInterfaces(out.fd), path);
  return out;
}

Result<NetworkNamespace> MakeNetworkNamespace() {
  NetworkNamespace out;
  out.fresh = true;
  Result<> made = OnPrivateThread([&]() -> Result<> {
    if (unshare(CLONE_NEWNET) != 0) {
      return SysError("unshare(CLONE_NEWNET)");
    }
    WV_TRY_VOID(LoopbackUp());
    WV_TRY(out.fd, Open("/proc/thread-self/ns/net", O_RDONLY));
    WV_TRY(out.interfaces, ListOurInterfaces());
    return {};
  });
  WV_TRY_VOID(std::move(made));
  return out;
}

Result<std::vector<std::string>> ListInterfaces(FdRef network_namespace) {
  std::vector<std::string> out;
  Result<> listed = OnPrivateThread([&]() -> Result<> {
    if (setns(network_namespace.get(), CLONE_NEWNET) != 0) {
      return SysError("setns to a network namespace");
    }
    WV_TRY(out, ListOurInterfaces());
    return {};
  });
  WV_TRY_VOID(std::move(listed));
  return out;
}

}  // namespace wyvern::runtime
