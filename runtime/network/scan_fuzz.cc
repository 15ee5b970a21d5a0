// rtnetlink messages as no kernel writes them, one after the other: whatever is made of them keeps the bounds of scan.h.
#include <netlink/msg.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"
#include "network/guest_network.h"
#include "network/scan_reader.h"

namespace {

using namespace wyvern;
using namespace wyvern::runtime;

void CheckScan(const NetworkScan& scan) {
  WV_CHECK(scan.interfaces.size() <= kMaxInterfaces && scan.routes.size() <= kMaxRoutes &&
           scan.neighbours.size() <= kMaxNeighbours && scan.left_out.size() <= 32);
  std::set<std::string> names = {""};
  std::set<MacAddress> macs;
  for (const Interface& it : scan.interfaces) {
    WV_CHECK(it.index > 0 && it.addresses.size() <= kMaxAddresses);
    WV_CHECK(!it.name.empty() && it.name.size() < 16 && ToUtf8(it.name) == it.name);
    WV_CHECK(it.mtu >= 68 && it.mtu <= kMaxTapMtu);
    WV_CHECK(macs.insert(it.mac).second);
    WV_CHECK(names.insert(it.name).second);
  }
  bool gateways = false;
  for (const Route& it : scan.routes) {
    WV_CHECK(names.contains(it.interface) && !it.destination.empty());
    WV_CHECK(!it.interface.empty() || (it.type != 1 && it.gateway.empty() && !it.on_link));
    WV_CHECK(it.gateway.empty() ? !gateways : true);
    gateways = gateways || !it.gateway.empty();
  }
  for (const Neighbour& it : scan.neighbours) {
    WV_CHECK(names.contains(it.interface) && !it.address.empty());
  }
  WV_CHECK(Compare(scan, scan) == NetworkChange());
  std::string wire;
  WV_CHECK(ToSetNetwork(scan).SerializeToString(&wire));
  wyvern::agent::v1::SetNetworkRequest read;  // refuses strings that are not UTF-8
  WV_CHECK(read.ParseFromString(wire));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint32_t> aligned((size + 3) / 4 + 1);
  std::memcpy(aligned.data(), data, size);
  auto* message = reinterpret_cast<nlmsghdr*>(aligned.data());
  int rest = static_cast<int>(size);
  ScanReader reader;
  while (nlmsg_ok(message, rest) != 0) {
    if (!reader.Add(message).has_value()) {
      break;
    }
    message = nlmsg_next(message, &rest);
  }
  CheckScan(std::move(reader).Finish());
  return 0;
}
