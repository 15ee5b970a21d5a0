#include "agent/uevents.h"

#include <linux/netlink.h>
#include <sys/socket.h>

namespace wyvern::agent {
namespace {

constexpr int kMaxDrained = 256;  // then others have their turn; the socket is still readable

}  // namespace

Result<std::unique_ptr<Uevents>> Uevents::Create(EventLoop& loop, std::function<void()> on_change) {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT));
  if (!fd.valid()) {
    return SysError("socket(NETLINK_KOBJECT_UEVENT)");
  }
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1;
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return SysError("bind NETLINK_KOBJECT_UEVENT");
  }
  std::unique_ptr<Uevents> uevents(new Uevents(loop, std::move(fd), std::move(on_change)));
  Uevents* raw = uevents.get();
  WV_TRY(raw->token_, loop.Add(raw->socket_, EPOLLIN, [raw](uint32_t) {
    char first = 0;
    for (int i = 0; i < kMaxDrained && recv(raw->socket_.get(), &first, 1, 0) >= 0; ++i) {
    }
    raw->on_change_();
  }));
  return uevents;
}

Uevents::~Uevents() {
  loop_.Remove(token_);
}

}  // namespace wyvern::agent
