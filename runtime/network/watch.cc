#include "network/watch.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

#include "network/netns.h"

namespace wyvern::runtime {
namespace {

// A turn of the loop. The rest wakes it again.
constexpr int kMessagesPerTurn = 64;

// Not libnl: nothing is parsed.
Result<UniqueFd> OpenEvents() {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  if (!fd.valid()) {
    return SysError("socket(AF_NETLINK)");
  }
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups =
      RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return SysError("bind(AF_NETLINK)");
  }
  return fd;
}

}  // namespace

Result<std::unique_ptr<NetworkWatch>> NetworkWatch::Start(EventLoop& loop, FdRef network_namespace,
                                                          std::function<void()> changed) {
  UniqueFd fd;
  WV_TRY_VOID(InNetworkNamespace(network_namespace, [&]() -> Result<> {
    WV_TRY(fd, OpenEvents());
    return {};
  }));
  std::unique_ptr<NetworkWatch> watch(new NetworkWatch(loop, std::move(fd), std::move(changed)));
  NetworkWatch* const it = watch.get();
  WV_TRY(watch->reading_, loop.Add(it->socket_, EPOLLIN, [it](uint32_t) { it->OnMessages(); }));
  return watch;
}

NetworkWatch::NetworkWatch(EventLoop& loop, UniqueFd socket, std::function<void()> changed)
    : loop_(loop), socket_(std::move(socket)), changed_(std::move(changed)) {}

NetworkWatch::~NetworkWatch() {
  loop_.Remove(reading_);
  loop_.Remove(settling_);
}

void NetworkWatch::OnMessages() {
  // A message that does not fit is cut: its end is as unread as its beginning.
  std::array<std::byte, 64> ignored{};
  bool any = false;
  for (int i = 0; i < kMessagesPerTurn; ++i) {
    const ssize_t got = recv(socket_.get(), ignored.data(), ignored.size(), 0);
    if (got < 0 && errno != ENOBUFS && errno != EINTR) {
      break;  // EAGAIN; netlink has no other
    }
    any = true;
  }
  if (!any || settling_ != EventLoop::Token::kNone) {
    return;
  }
  settling_ = loop_.After(kNetworkSettles, [this] {
    settling_ = EventLoop::Token::kNone;
    // A copy: it may destroy this, and with it the function that runs.
    const std::function<void()> changed = changed_;
    changed();
  });
}

}  // namespace wyvern::runtime
