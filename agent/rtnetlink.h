// agent/rtnetlink.h — requests to the kernel's NETLINK_ROUTE and its answers: one socket, one request after the other.
// Spec:    netlink(7), rtnetlink(7), linux/netlink.h (extended acknowledgements: NLMSGERR_ATTR_*).
// Why not libnl: its error codes are its own, so that the errno is lost, and with it the kernel's text of what is wrong ("Nexthop has
//          invalid gateway"); and its core refers to getaddrinfo and getprotobyname: a static program gets the C library's resolver with
//          its plug-ins, 0.4 MiB more where the agent has 3.0.
// Errors:  what the kernel refuses has its errno and its text. An answer that is cut short or that does not add up is INTERNAL.
// Threads: one at a time. Blocks as long as others hold the kernel's RTNL lock.
// Trust:   the kernel; other sockets of the guest may send to ours, which is dropped.
#pragma once

#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/fd.h"

namespace wyvern::agent {

// A message on its way to the kernel. `Header` is what has its place behind nlmsghdr: ifinfomsg, rtmsg, …
class NetlinkRequest {
 public:
  // `flags`: NLM_F_CREATE and the like; those of the exchange are RouteSocket's.
  template <typename Header>
  NetlinkRequest(uint16_t type, uint16_t flags, const Header& header) {
    static_assert(std::is_trivially_copyable_v<Header>);
    const nlmsghdr message{
        .nlmsg_len = 0, .nlmsg_type = type, .nlmsg_flags = flags, .nlmsg_seq = 0, .nlmsg_pid = 0};
    Append(std::as_bytes(std::span(&message, 1)));
    Append(std::as_bytes(std::span(&header, 1)));
  }

  void Add(uint16_t type, std::span<const std::byte> value);

  void Add(uint16_t type, std::span<const uint8_t> value) { Add(type, std::as_bytes(value)); }

  void Add(uint16_t type, uint32_t value) { Add(type, std::as_bytes(std::span(&value, 1))); }

  // With a zero behind it.
  void AddText(uint16_t type, std::string_view text);
  // What is added until End is within the attribute.
  size_t Begin(uint16_t type);
  void End(size_t begun);
  // Complete but for these.
  std::span<const std::byte> Finish(uint16_t more_flags, uint32_t sequence);

 private:
  void Append(std::span<const std::byte> bytes);

  std::vector<std::byte> bytes_;
};

// The attributes behind a message's header, as far as they are whole.
class NetlinkAttributes {
 public:
  explicit NetlinkAttributes(std::span<const std::byte> bytes) : bytes_(bytes) {}

  // The last of that type; none: there is none.
  std::optional<std::span<const std::byte>> Find(uint16_t type) const;
  // None also where it is shorter.
  std::optional<uint32_t> Number(uint16_t type) const;
  // Up to its zero; empty: there is none.
  std::string_view Text(uint16_t type) const;

 private:
  std::span<const std::byte> bytes_;
};

struct NetlinkMessage {
  uint16_t type = 0;
  uint16_t flags = 0;
  std::span<const std::byte> payload;

  // None: it is shorter.
  template <typename Header>
  std::optional<Header> ReadHeader() const {
    static_assert(std::is_trivially_copyable_v<Header>);
    if (payload.size() < sizeof(Header)) {
      return std::nullopt;
    }
    Header header;
    std::memcpy(&header, payload.data(), sizeof(Header));
    return header;
  }

  template <typename Header>
  NetlinkAttributes AttributesBehind() const {
    const size_t begin = NLMSG_ALIGN(sizeof(Header));
    return NetlinkAttributes(payload.size() > begin ? payload.subspan(begin)
                                                    : std::span<const std::byte>());
  }
};

using NetlinkHandler = std::function<void(const NetlinkMessage&)>;

// What a datagram says of the request with that sequence number.
struct NetlinkProgress {
  bool done = false;         // the last message of the answer was in it
  bool interrupted = false;  // NLM_F_DUMP_INTR: the list changed while it was read
};

// `handle` gets each message of the answer but errors and ends. What has another sequence number is of a request that was given up.
Result<NetlinkProgress> ReadDatagram(std::span<const std::byte> datagram, uint32_t sequence,
                                     const NetlinkHandler& handle);

class RouteSocket {
 public:
  static Result<RouteSocket> Open();

  // Returns when the kernel has done it.
  Result<> Change(NetlinkRequest request);
  // All that there is. A list that changes while it is read is read again, up to four times; `handle` may get an entry more than once.
  Result<> List(NetlinkRequest request, const NetlinkHandler& handle);

 private:
  explicit RouteSocket(UniqueFd fd) : fd_(std::move(fd)) {}

  Result<NetlinkProgress> Exchange(NetlinkRequest& request, uint16_t flags,
                                   const NetlinkHandler& handle);

  UniqueFd fd_;
  std::vector<std::byte> buffer_;
  uint32_t sequence_ = 0;
};

}  // namespace wyvern::agent
