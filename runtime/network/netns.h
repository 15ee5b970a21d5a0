// network/netns.h — the sandbox's network namespace on the host: the one the spec names, or a fresh one with loopback up.
// Now:     no interface reaches the guest yet; a namespace that has one gets a log line from the caller.
// Life:    a fresh namespace lives as long as a descriptor or an anchor in it: nothing to clean up after a crash.
// Threads: any.
#pragma once

#include <string>
#include <vector>

#include "base/fd.h"

namespace wyvern::runtime {

struct NetworkNamespace {
  UniqueFd fd;
  bool fresh = false;
  std::vector<std::string> interfaces;  // all but "lo"
};

// NOT_FOUND names the path; INVALID_ARGUMENT: it is not a network namespace.
Result<NetworkNamespace> OpenNetworkNamespace(const std::string& path);
Result<NetworkNamespace> MakeNetworkNamespace();

}  // namespace wyvern::runtime
