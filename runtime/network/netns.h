// network/netns.h — the sandbox's network namespace on the host: the one the spec names, or a fresh one with loopback up.
// Life:    a fresh namespace lives as long as a descriptor or an anchor in it: nothing to clean up after a crash.
// Threads: any.
#pragma once

#include <functional>
#include <string>

#include "base/fd.h"

namespace wyvern::runtime {

// NOT_FOUND names the path; INVALID_ARGUMENT: it is not a network namespace.
Result<UniqueFd> OpenNetworkNamespace(const std::string& path);
Result<UniqueFd> MakeNetworkNamespace();

// Runs `body` on a thread of its own in that namespace: the sockets and taps that it opens stay there, whichever thread uses them later, and
// keep the namespace alive. An error of setns(2), or the body's.
Result<> InNetworkNamespace(FdRef network_namespace, const std::function<Result<>()>& body);

// FAILED_PRECONDITION: it is process 1's or our own. A guest would take the packets of the host's interfaces away from the host.
Result<> RefuseHostNamespace(FdRef network_namespace);

// Sets IFF_UP, in the calling thread's namespace.
Result<> BringUp(const std::string& interface);

}  // namespace wyvern::runtime
