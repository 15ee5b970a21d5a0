// network/netns.h — the sandbox's network namespace on the host: the one the spec names, or a fresh one with loopback up.
// Now:     no interface reaches the guest yet; the caller says so for each, whenever it comes.
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
  // As ListInterfaces says; in a fresh one what the kernel puts into each (tunl0 and the like): nobody asked for those.
  std::vector<std::string> interfaces;
};

// NOT_FOUND names the path; INVALID_ARGUMENT: it is not a network namespace.
Result<NetworkNamespace> OpenNetworkNamespace(const std::string& path);
Result<NetworkNamespace> MakeNetworkNamespace();

// The names of what is in it now, without "lo".
Result<std::vector<std::string>> ListInterfaces(FdRef network_namespace);

}  // namespace wyvern::runtime
