// network/redirect.h — all that arrives on one interface is sent by another: an ingress qdisc with one filter.
// Method:  tc-u32(8) without a key, which any packet matches (any ethertype, any length; tagged ones, too), and tc-mirred(8). It is built where
//          Kata's is; cls_matchall would do the same and is in fewer kernels.
// Ours:    an ingress qdisc all of whose filters have our priority, or that has none: such a one does nothing, and is what is left when we
//          die between the two steps.
// Threads: as Netlink.
#pragma once

#include <cstdint>
#include <string>

#include "network/netlink.h"

namespace wyvern::runtime {

enum class IngressOwner : uint8_t { kNobody, kOurs, kOther };

// Of the ingress or clsact qdisc of the interface with index `from`.
Result<IngressOwner> LookAtIngress(Netlink& netlink, int from);

// FAILED_PRECONDITION: somebody else has one, or the kernel lacks sch_ingress, cls_u32 or act_mirred. One of ours is replaced. After an error
// there is none of ours.
Result<> AddRedirect(Netlink& netlink, int from, int to);

// Idempotent; nothing if the interface is gone, or what it has is not ours.
Result<> RemoveRedirect(Netlink& netlink, int from);

}  // namespace wyvern::runtime
