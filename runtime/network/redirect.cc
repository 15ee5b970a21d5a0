#include "network/redirect.h"

#include <linux/if_ether.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/route/act/mirred.h>
#include <netlink/route/classifier.h>
#include <netlink/route/cls/u32.h>
#include <netlink/route/qdisc.h>

#include <cerrno>

#include "base/check.h"
#include "base/cleanup.h"
#include "network/attributes.h"

namespace wyvern::runtime {
namespace {

// "WV", by which we know our filters again.
constexpr uint16_t kPriority = 0x5756;
// The major number that every ingress qdisc has (Linux sch_ingress.c).
constexpr uint32_t kIngressHandle = 0xffff0000;

struct Put {
  void operator()(rtnl_qdisc* it) const { rtnl_qdisc_put(it); }

  void operator()(rtnl_cls* it) const { rtnl_cls_put(it); }

  void operator()(rtnl_act* it) const { rtnl_act_put(it); }
};

using Qdisc = std::unique_ptr<rtnl_qdisc, Put>;

Qdisc IngressOf(int interface) {
  Qdisc qdisc(rtnl_qdisc_alloc());
  WV_CHECK(qdisc != nullptr);
  rtnl_tc_set_ifindex(TC_CAST(qdisc.get()), interface);
  rtnl_tc_set_parent(TC_CAST(qdisc.get()), TC_H_INGRESS);
  rtnl_tc_set_handle(TC_CAST(qdisc.get()), kIngressHandle);
  WV_CHECK(rtnl_tc_set_kind(TC_CAST(qdisc.get()), "ingress") == 0);
  return qdisc;
}

// The request, or the end: without memory libnl makes none, and there is no other reason.
NetlinkMessage Built(int failed, nl_msg* message) {
  WV_CHECK(failed == 0);
  return NetlinkMessage(message);
}

NetlinkMessage RedirectAll(int from, int to) {
  const std::unique_ptr<rtnl_act, Put> action(rtnl_act_alloc());
  WV_CHECK(action != nullptr && rtnl_tc_set_kind(TC_CAST(action.get()), "mirred") == 0);
  WV_CHECK(rtnl_mirred_set_action(action.get(), TCA_EGRESS_REDIR) == 0 &&
           rtnl_mirred_set_policy(action.get(), TC_ACT_STOLEN) == 0 &&
           rtnl_mirred_set_ifindex(action.get(), static_cast<uint32_t>(to)) == 0);
  const std::unique_ptr<rtnl_cls, Put> filter(rtnl_cls_alloc());
  WV_CHECK(filter != nullptr);
  rtnl_tc_set_ifindex(TC_CAST(filter.get()), from);
  rtnl_tc_set_parent(TC_CAST(filter.get()), kIngressHandle);
  WV_CHECK(rtnl_tc_set_kind(TC_CAST(filter.get()), "u32") == 0);
  rtnl_cls_set_prio(filter.get(), kPriority);
  rtnl_cls_set_protocol(filter.get(), ETH_P_ALL);
  WV_CHECK(rtnl_u32_set_flags(filter.get(), TC_U32_TERMINAL) == 0 &&
           rtnl_u32_add_action(filter.get(), action.get()) == 0);
  nl_msg* message = nullptr;
  const int failed = rtnl_cls_build_add_request(filter.get(), NLM_F_CREATE | NLM_F_EXCL, &message);
  return Built(failed, message);
}

// Linux says ENOENT of a kind that is neither built in nor a module.
Result<> OfTheKernel(Result<> done) {
  if (!done.has_value() &&
      (done.error().sys_errno() == ENOENT || done.error().sys_errno() == EOPNOTSUPP)) {
    return tl::unexpected(
        std::move(done)
            .error()
            .WithCode(Code::kFailedPrecondition)
            .WithContext(
                "the host's kernel must have sch_ingress, cls_u32 and act_mirred (modprobe)"));
  }
  return done;
}

}  // namespace

Result<IngressOwner> LookAtIngress(Netlink& netlink, int from) {
  tcmsg which{};
  which.tcm_family = AF_UNSPEC;
  which.tcm_ifindex = from;
  IngressOwner owner = IngressOwner::kNobody;
  WV_TRY_VOID(
      netlink.Dump(RTM_GETQDISC, which, "listing qdiscs", [&](nlmsghdr* message) -> Result<> {
        tcmsg header{};
        WV_TRY(const auto attributes, Attributes<TCA_MAX>::OfMessage(message, &header));
        // clsact has the same parent. The kernel lists those of every interface.
        if (header.tcm_ifindex == from && header.tcm_parent == TC_H_INGRESS) {
          owner =
              attributes.Text(TCA_KIND) == "ingress" ? IngressOwner::kOurs : IngressOwner::kOther;
        }
        return {};
      }));
  if (owner != IngressOwner::kOurs) {
    return owner;
  }
  which.tcm_parent = kIngressHandle;
  WV_TRY_VOID(
      netlink.Dump(RTM_GETTFILTER, which, "listing filters", [&](nlmsghdr* message) -> Result<> {
        tcmsg header{};
        WV_TRY(const auto attributes, Attributes<TCA_MAX>::OfMessage(message, &header));
        // The priority is the upper half.
        if (header.tcm_info >> 16 != kPriority || attributes.Text(TCA_KIND) != "u32") {
          owner = IngressOwner::kOther;
        }
        return {};
      }));
  return owner;
}

Result<> AddRedirect(Netlink& netlink, int from, int to) {
  WV_TRY(const IngressOwner owner, LookAtIngress(netlink, from));
  if (owner == IngressOwner::kOther) {
    return Fail(Code::kFailedPrecondition,
                "it has an ingress or clsact qdisc of somebody else, who has its packets: see tc "
                "qdisc show, tc filter show … ingress");
  }
  WV_TRY_VOID(RemoveRedirect(netlink, from));
  nl_msg* message = nullptr;
  const int failed =
      rtnl_qdisc_build_add_request(IngressOf(from).get(), NLM_F_CREATE | NLM_F_EXCL, &message);
  WV_TRY_VOID(OfTheKernel(netlink.Request(Built(failed, message), "adding an ingress qdisc")));
  Cleanup remove([&] { (void)RemoveRedirect(netlink, from); });
  WV_TRY_VOID(OfTheKernel(netlink.Request(RedirectAll(from, to), "adding a redirection")));
  remove.Cancel();
  return {};
}

Result<> RemoveRedirect(Netlink& netlink, int from) {
  WV_TRY(const IngressOwner owner, LookAtIngress(netlink, from));
  if (owner != IngressOwner::kOurs) {
    return {};
  }
  nl_msg* message = nullptr;
  const int failed = rtnl_qdisc_build_delete_request(IngressOf(from).get(), &message);
  Result<> removed = netlink.Request(Built(failed, message), "removing an ingress qdisc");
  // ENODEV, ENOENT: interface or qdisc went meanwhile.
  if (!removed.has_value() && removed.error().sys_errno() != ENODEV &&
      removed.error().sys_errno() != ENOENT) {
    return removed;
  }
  return {};
}

}  // namespace wyvern::runtime
