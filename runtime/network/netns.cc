#include "network/netns.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "storage/rootfs.h"

namespace wyvern::runtime {
namespace {

// Whether the file is the namespace that `path` is, too. What cannot be looked at (a process of another user) is not the same.
bool SameNamespace(const struct stat& known, const char* path) {
  struct stat other = {};
  return stat(path, &other) == 0 && known.st_dev == other.st_dev && known.st_ino == other.st_ino;
}

}  // namespace

Result<UniqueFd> OpenNetworkNamespace(const std::string& path) {
  WV_TRY_CONTEXT(UniqueFd opened, Open(path, O_RDONLY), "network namespace");
  if (ioctl(opened.get(), NS_GET_NSTYPE) != CLONE_NEWNET) {
    return Fail(Code::kInvalidArgument,
                "linux.namespaces: " + path + " is not a network namespace");
  }
  return opened;
}

Result<UniqueFd> MakeNetworkNamespace() {
  UniqueFd out;
  Result<> made = OnPrivateThread([&]() -> Result<> {
    if (unshare(CLONE_NEWNET) != 0) {
      return SysError("unshare(CLONE_NEWNET)");
    }
    WV_TRY_VOID(BringUp("lo"));
    WV_TRY(out, Open("/proc/thread-self/ns/net", O_RDONLY));
    return {};
  });
  WV_TRY_VOID(std::move(made));
  return out;
}

Result<> InNetworkNamespace(FdRef network_namespace, const std::function<Result<>()>& body) {
  return OnPrivateThread([&]() -> Result<> {
    if (setns(network_namespace.get(), CLONE_NEWNET) != 0) {
      return SysError("setns to a network namespace");
    }
    return body();
  });
}

Result<> RefuseHostNamespace(FdRef network_namespace) {
  WV_TRY(const struct stat known, Fstat(network_namespace));
  if (SameNamespace(known, "/proc/1/ns/net") || SameNamespace(known, "/proc/self/ns/net")) {
    return Fail(Code::kFailedPrecondition,
                "the network namespace is the host's own (hostNetwork, --network host): its "
                "interfaces are not touched, and a guest cannot share them; run it with a network "
                "of its own");
  }
  return {};
}

Result<> BringUp(const std::string& interface) {
  const UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket_fd.valid()) {
    return SysError("socket");
  }
  ifreq request = {};
  interface.copy(request.ifr_name, IFNAMSIZ - 1);
  if (ioctl(socket_fd.get(), SIOCGIFFLAGS, &request) != 0) {
    return SysError("ioctl(SIOCGIFFLAGS) " + interface);
  }
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (ioctl(socket_fd.get(), SIOCSIFFLAGS, &request) != 0) {
    return SysError("ioctl(SIOCSIFFLAGS) " + interface);
  }
  return {};
}

}  // namespace wyvern::runtime
