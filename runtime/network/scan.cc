#include "network/scan.h"

#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include "network/netlink.h"
#include "network/netns.h"
#include "network/scan_reader.h"

namespace wyvern::runtime {
namespace {

constexpr int kAttempts = 5;

template <typename Header>
Result<> DumpInto(ScanReader& reader, Netlink& netlink, int type, const char* what) {
  return netlink.Dump(type, Header{}, what,
                      [&reader](nlmsghdr* message) { return reader.Add(message); });
}

Result<NetworkScan> ScanOnce() {
  WV_TRY(Netlink netlink, Netlink::Open());
  ScanReader reader;
  WV_TRY_VOID(DumpInto<ifinfomsg>(reader, netlink, RTM_GETLINK, "listing network interfaces"));
  WV_TRY_VOID(DumpInto<ifaddrmsg>(reader, netlink, RTM_GETADDR, "listing addresses"));
  WV_TRY_VOID(DumpInto<rtmsg>(reader, netlink, RTM_GETROUTE, "listing routes"));
  WV_TRY_VOID(DumpInto<ndmsg>(reader, netlink, RTM_GETNEIGH, "listing neighbours"));
  return std::move(reader).Finish();
}

}  // namespace

std::string TapName(int interface_index) {
  return "wv" + std::to_string(interface_index);
}

Result<NetworkScan> ScanNetwork(FdRef network_namespace) {
  NetworkScan out;
  WV_TRY_VOID(InNetworkNamespace(network_namespace, [&]() -> Result<> {
    for (int attempt = 1;; ++attempt) {
      Result<NetworkScan> scan = ScanOnce();
      if (scan.has_value() || scan.error().code() != Code::kAborted || attempt == kAttempts) {
        WV_TRY(out, std::move(scan));
        return {};
      }
    }
  }));
  return out;
}

}  // namespace wyvern::runtime
