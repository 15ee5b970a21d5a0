#include "volume/host_sockets.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/plain_text.h"

namespace wyvern::runtime {
namespace {

// For a server whose backlog is full: a connect() of its own would wait.
constexpr int kConnectTries = 100;
constexpr std::chrono::milliseconds kConnectPause(50);

Result<UniqueFd> ConnectPatiently(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return Fail(Code::kInvalidArgument, path + ": a socket's path has at most 107 bytes");
  }
  path.copy(address.sun_path, path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) {
    return SysError("socket(AF_UNIX)");
  }
  for (int i = 0;
       connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0; ++i) {
    if (errno != EAGAIN || i == kConnectTries) {
      return SysError("connect " + path);
    }
    std::this_thread::sleep_for(kConnectPause);
  }
  return fd;
}

}  // namespace

Result<std::optional<oci::GuestSource>> HostSockets::Take(const std::string& source) {
  if (std::ranges::find(options_.sources, source) == options_.sources.end()) {
    return std::nullopt;
  }
  struct stat status = {};
  if (stat(source.c_str(), &status) != 0) {
    return SysError("stat " + source);
  }
  if (!S_ISSOCK(status.st_mode)) {
    return Fail(Code::kFailedPrecondition,
                source +
                    " is no unix socket, as sockets.proxy says: take it out of there, or mount "
                    "the socket itself");
  }
  const std::lock_guard adding(add_mu_);
  std::string name;
  {
    const std::lock_guard lock(mu_);
    const auto known = std::ranges::find_if(
        sockets_, [&](const auto& each) { return each.second.source == source; });
    if (known != sockets_.end()) {
      return oci::GuestSource{fmt::format("{}/{}", oci::kGuestSockets, known->first), false};
    }
    name = fmt::format("s{}", next_++);
    sockets_[name].source = source;  // before the guest can tell of it
  }
  agent_pb::AddSocketRequest request;
  request.set_name(name);
  request.set_mode(status.st_mode & 0777U);
  request.set_uid(status.st_uid);
  request.set_gid(status.st_gid);
  if (auto added = options_.add(request); !added.has_value()) {
    const std::lock_guard lock(mu_);
    sockets_.erase(name);
    return tl::unexpected(
        std::move(added).error().WithContext("a socket in the guest for " + source));
  }
  return oci::GuestSource{fmt::format("{}/{}", oci::kGuestSockets, name), false};
}

void HostSockets::Pending(const std::string& name) {
  {
    const std::lock_guard lock(mu_);
    const auto socket = sockets_.find(name);
    if (socket == sockets_.end() || closed_) {
      return;
    }
    socket->second.asked = true;
    if (socket->second.serving || count_ >= kMaxProxied) {
      return;
    }
    socket->second.serving = true;
  }
  options_.run([this, name] { Serve(name); });
}

// True: one connection may be taken, and is counted.
bool HostSockets::Next(const std::string& name) {
  const std::lock_guard lock(mu_);
  Socket& socket = sockets_.at(name);
  if (closed_ || !socket.asked || count_ >= kMaxProxied) {
    if (!closed_ && socket.asked) {
      WV_WARN_LIMITED("sandbox {}: {} connections to sockets of the host are there: more wait",
                      options_.id, kMaxProxied);
    }
    socket.serving = false;
    return false;
  }
  socket.asked = false;
  ++count_;
  return true;
}

void HostSockets::Serve(const std::string& name) {
  while (Next(name)) {
    auto stream = options_.accept(name);
    if (!stream.has_value()) {
      if (stream.error().code() != Code::kUnavailable) {  // else he has gone
        WV_WARN_LIMITED("sandbox {}: a connection to a socket of the host: {}", options_.id,
                        PlainText(stream.error().message(), kMaxGuestError));
      }
      Ended();
      continue;
    }
    std::string source;
    {
      const std::lock_guard lock(mu_);
      source = sockets_.at(name).source;
    }
    Join(source, std::move(*stream));
  }
}

void HostSockets::Join(const std::string& source, UniqueFd stream) {
  auto server = ConnectPatiently(source);
  if (!server.has_value()) {
    WV_WARN_LIMITED("sandbox {}: {}", options_.id, server.error().message());
    Ended();
    return;
  }
  options_.loop->Call([&] {
    {
      const std::lock_guard lock(mu_);
      if (closed_) {
        --count_;
        return;
      }
    }
    auto entry = std::make_shared<std::shared_ptr<StreamRelay>>();
    auto relay = StreamRelay::Start(options_.loop->loop(), std::move(stream), std::move(*server),
                                    [this, entry] {
                                      {
                                        const std::lock_guard lock(mu_);
                                        relays_.erase(std::exchange(*entry, nullptr));
                                      }
                                      Ended();
                                    });
    if (!relay.has_value()) {
      WV_WARN_LIMITED("sandbox {}: {}", options_.id, relay.error().message());
      Ended();
      return;
    }
    *entry = *relay;
    const std::lock_guard lock(mu_);
    relays_.insert(*relay);
  });
}

// One less: who was told to wait may come.
void HostSockets::Ended() {
  std::vector<std::string> asked;
  {
    const std::lock_guard lock(mu_);
    --count_;
    for (auto& [name, socket] : sockets_) {
      if (!closed_ && socket.asked && !socket.serving && count_ < kMaxProxied) {
        socket.serving = true;
        asked.push_back(name);
      }
    }
  }
  for (const std::string& name : asked) {
    options_.run([this, name] { Serve(name); });
  }
}

void HostSockets::Close() {
  {
    const std::lock_guard lock(mu_);
    if (std::exchange(closed_, true)) {
      return;
    }
  }
  options_.loop->Call([this] {
    std::set<std::shared_ptr<StreamRelay>> relays;
    {
      const std::lock_guard lock(mu_);
      relays.swap(relays_);
    }
    for (const std::shared_ptr<StreamRelay>& relay : relays) {
      relay->Stop();
    }
  });
}

}  // namespace wyvern::runtime
