// network/scan_reader.h — rtnetlink messages into a NetworkScan. Pure.
// Trust:   a message is framed, nothing more is taken for granted: each attribute's length is looked at, and what is none is INTERNAL.
#pragma once

#include <vector>

#include "network/link.h"

struct nlmsghdr;

namespace wyvern::runtime {

class ScanReader {
 public:
  // RTM_NEWLINK first, then RTM_NEWADDR, RTM_NEWROUTE and RTM_NEWNEIGH as they come; other types are passed over. `message` is in memory as
  // long as it says. INTERNAL: it is malformed; RESOURCE_EXHAUSTED: a bound of scan.h.
  Result<> Add(nlmsghdr* message);

  // Of the links so far, with a reason why not for those that cannot be connected.
  const std::vector<Link>& links() const { return links_; }

  NetworkScan Finish() &&;

 private:
  // Which interface is known by index only until all links are.
  struct RouteOf {
    int index;  // 0: none
    Route route;
  };

  struct NeighbourOf {
    int index;
    Neighbour neighbour;
  };

  Result<> AddLink(nlmsghdr* message);
  Result<> AddAddress(nlmsghdr* message);
  Result<> AddRoute(nlmsghdr* message);
  Result<> AddNeighbour(nlmsghdr* message);
  void LeaveOut(std::string line);

  std::vector<Link> links_;
  std::vector<RouteOf> routes_;
  std::vector<NeighbourOf> neighbours_;
  std::vector<std::string> left_out_;
};

}  // namespace wyvern::runtime
