// network/testing/bridge.h — an interface for tests, in a network namespace of theirs: it goes with the namespace.
#pragma once

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "network/netns.h"

namespace wyvern::runtime {

// Fails where the kernel has no bridges.
inline Result<> AddBridge(FdRef network_namespace, const char* name) {
  return InNetworkNamespace(network_namespace, [&]() -> Result<> {
    const UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket_fd.valid() || ioctl(socket_fd.get(), SIOCBRADDBR, name) != 0) {
      return SysError("ioctl(SIOCBRADDBR)");
    }
    return {};
  });
}

}  // namespace wyvern::runtime
