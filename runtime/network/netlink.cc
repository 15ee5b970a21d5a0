#include "network/netlink.h"

#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <utility>

#include "base/check.h"

namespace wyvern::runtime {

void NetlinkMessageDeleter::operator()(nl_msg* message) const {
  nlmsg_free(message);
}

void Netlink::SocketDeleter::operator()(nl_sock* socket) const {
  nl_socket_free(socket);
}

Result<Netlink> Netlink::Open() {
  std::unique_ptr<nl_sock, SocketDeleter> socket(nl_socket_alloc());
  WV_CHECK(socket != nullptr);  // out of memory
  auto now = std::make_unique<Conversation>();
  nl_socket_modify_cb(
      socket.get(), NL_CB_VALID, NL_CB_CUSTOM,
      [](nl_msg* message, void* argument) -> int {
        auto& conversation = *static_cast<Conversation*>(argument);
        if (conversation.visit == nullptr) {
          return NL_OK;
        }
        Result<> visited = (*conversation.visit)(nlmsg_hdr(message));
        if (!visited.has_value()) {
          conversation.stopped = std::move(visited).error();
          return NL_STOP;
        }
        return NL_OK;
      },
      now.get());
  // libnl's own numbers are fewer than errno's.
  nl_socket_modify_err_cb(
      socket.get(), NL_CB_CUSTOM,
      [](sockaddr_nl*, nlmsgerr* error, void* argument) -> int {
        static_cast<Conversation*>(argument)->sys_errno = -error->error;
        return NL_STOP;
      },
      now.get());
  if (const int failed = nl_connect(socket.get(), NETLINK_ROUTE); failed < 0) {
    return Fail(Code::kUnavailable, std::string("opening rtnetlink: ") + nl_geterror(failed));
  }
  const timeval deadline = {.tv_sec = kNetlinkDeadline.count(), .tv_usec = 0};
  if (setsockopt(nl_socket_get_fd(socket.get()), SOL_SOCKET, SO_RCVTIMEO, &deadline,
                 sizeof(deadline)) != 0) {
    return SysError("setsockopt(SO_RCVTIMEO) of rtnetlink");
  }
  return Netlink(std::move(socket), std::move(now));
}

Result<> Netlink::Outcome(int libnl, const std::string& what) {
  now_->visit = nullptr;
  if (now_->stopped.has_value()) {
    return tl::unexpected(std::move(*std::exchange(now_->stopped, std::nullopt)));
  }
  if (const int number = std::exchange(now_->sys_errno, 0); number != 0) {
    return SysErrorFrom(number, what);
  }
  switch (libnl) {
    case -NLE_AGAIN:
      return Fail(Code::kDeadlineExceeded, what + ": no answer of the kernel");
    case -NLE_DUMP_INTR:
      return Fail(Code::kAborted, what + ": it changes too fast to be read");
    default:
      break;
  }
  if (libnl < 0) {
    return Fail(Code::kInternal, what + ": " + nl_geterror(libnl));
  }
  return {};
}

Result<> Netlink::DumpBytes(int type, std::span<const std::byte> header, const std::string& what,
                            const Visitor& visit) {
  const NetlinkMessage request(nlmsg_alloc_simple(type, NLM_F_DUMP));
  WV_CHECK(request != nullptr);
  // It only reads them.
  WV_CHECK(nlmsg_append(request.get(), const_cast<std::byte*>(header.data()), header.size(),
                        NLMSG_ALIGNTO) == 0);
  now_->visit = &visit;
  int done = nl_send_auto(socket_.get(), request.get());
  if (done >= 0) {
    done = nl_recvmsgs_default(socket_.get());
  }
  return Outcome(done, what);
}

Result<> Netlink::Request(NetlinkMessage message, const std::string& what) {
  return Outcome(nl_send_sync(socket_.get(), message.release()), what);
}

}  // namespace wyvern::runtime
