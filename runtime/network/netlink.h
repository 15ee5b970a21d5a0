// network/netlink.h — a conversation with the kernel's rtnetlink(7), over libnl-3: dumps, and requests with their acknowledgement.
// Ownership:holds the network namespace that it was opened in.
// Errors:  the kernel's errno, where it gave one. DEADLINE_EXCEEDED: no answer within kNetlinkDeadline. ABORTED: what was dumped changed
//          meanwhile (NLM_F_DUMP_INTR): look again.
// Threads: one at a time.   Trust: the kernel frames messages; libnl takes those only that answer the last request.
#pragma once

#include <linux/netlink.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "base/error.h"

struct nl_msg;
struct nl_sock;

namespace wyvern::runtime {

inline constexpr std::chrono::seconds kNetlinkDeadline{5};

struct NetlinkMessageDeleter {
  void operator()(nl_msg* message) const;
};

using NetlinkMessage = std::unique_ptr<nl_msg, NetlinkMessageDeleter>;

class Netlink {
 public:
  // An error ends the dump, which returns it.
  using Visitor = std::function<Result<>(nlmsghdr* message)>;

  // In the calling thread's network namespace, whichever thread uses it later.
  static Result<Netlink> Open();

  // `header` is the family's (ifinfomsg, tcmsg, …), `what` goes into errors. After an error, answers to come are left in the socket: open another.
  template <typename Header>
  Result<> Dump(int type, const Header& header, const std::string& what, const Visitor& visit) {
    return DumpBytes(type, std::as_bytes(std::span(&header, 1)), what, visit);
  }

  // Sends, and waits for the acknowledgement.
  Result<> Request(NetlinkMessage message, const std::string& what);

 private:
  struct SocketDeleter {
    void operator()(nl_sock* socket) const;
  };

  // What libnl's callbacks see.
  struct Conversation {
    int sys_errno = 0;
    const Visitor* visit = nullptr;
    std::optional<Error> stopped;
  };

  Netlink(std::unique_ptr<nl_sock, SocketDeleter> socket, std::unique_ptr<Conversation> now)
      : socket_(std::move(socket)), now_(std::move(now)) {}

  Result<> DumpBytes(int type, std::span<const std::byte> header, const std::string& what,
                     const Visitor& visit);
  Result<> Outcome(int libnl, const std::string& what);

  std::unique_ptr<nl_sock, SocketDeleter> socket_;
  std::unique_ptr<Conversation> now_;  // never moved: the callbacks' argument
};

}  // namespace wyvern::runtime
