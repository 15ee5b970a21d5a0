#include "agent/host_sockets.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "base/log.h"
#include "base/stream_relay.h"
#include "base/unix_socket.h"

namespace wyvern::agent {
namespace {

constexpr std::chrono::milliseconds kRest(100);
constexpr size_t kMaxName = 63;

bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxName && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

// A connection that the host is to take: until its stream has come, or is given up.
struct Joining {
  Joining(EventLoop& event_loop, std::shared_ptr<size_t> connections)
      : loop(event_loop), count(std::move(connections)) {
    ++*count;
  }

  ~Joining() {
    loop.Remove(timer);
    --*count;
  }

  Joining(const Joining&) = delete;
  Joining& operator=(const Joining&) = delete;

  EventLoop& loop;
  const std::shared_ptr<size_t> count;
  UniqueFd connection;
  EventLoop::Token timer = EventLoop::Token::kNone;
};

}  // namespace

HostSockets::HostSockets(EventLoop& loop, StdioHub& hub, std::string directory,
                         std::function<void(const std::string& name)> pending)
    : loop_(loop), hub_(hub), directory_(std::move(directory)), pending_(std::move(pending)) {}

HostSockets::~HostSockets() {
  while (!sockets_.empty()) {
    Remove(std::string(sockets_.begin()->first));
  }
}

Result<> HostSockets::Add(const v1::AddSocketRequest& request) {
  const std::string& name = request.name();
  if (!IsName(name) || (request.mode() & ~0777U) != 0) {
    return Fail(Code::kInvalidArgument, "a socket has a name of [a-z0-9-] and a mode up to 0777");
  }
  if (sockets_.contains(name)) {
    return Fail(Code::kAlreadyExists, "socket " + name + " exists");
  }
  if (sockets_.size() >= kMaxSockets) {
    return Fail(Code::kResourceExhausted, fmt::format("{} sockets are there", kMaxSockets));
  }
  if (mkdir(directory_.c_str(), 0755) != 0 && errno != EEXIST) {
    return SysError("mkdir " + directory_);
  }
  const std::string path = PathOf(name);
  unlink(path.c_str());
  WV_TRY(UniqueFd listener, ListenUnix(path, request.mode()));
  WV_TRY_VOID(SetNonBlocking(listener, true));
  if (chown(path.c_str(), request.uid(), request.gid()) != 0) {
    const int number = errno;
    unlink(path.c_str());
    return SysErrorFrom(number, "chown " + path);
  }
  sockets_[name].listener = std::move(listener);
  auto watched = Watch(name);
  if (!watched) {
    Remove(name);
  }
  return watched;
}

Result<> HostSockets::Watch(const std::string& name) {
  Socket& socket = sockets_.at(name);
  WV_TRY(socket.token, loop_.Add(socket.listener, EPOLLIN, [this, name](uint32_t) {
    // Said once: who waits is still there when the host takes the first.
    loop_.Remove(std::exchange(sockets_.at(name).token, EventLoop::Token::kNone));
    pending_(name);
  }));
  return {};
}

void HostSockets::Rest(const std::string& name) {
  Socket& socket = sockets_.at(name);
  loop_.Remove(socket.token);
  socket.token = loop_.After(kRest, [this, name] {
    if (auto watched = Watch(name); !watched) {
      WV_WARN_LIMITED("socket {}: {}", name, watched.error().message());
      Rest(name);
    }
  });
}

Result<> HostSockets::Accept(const v1::AcceptSocketRequest& request) {
  const auto socket = sockets_.find(request.name());
  if (socket == sockets_.end()) {
    return Fail(Code::kNotFound, "no such socket");
  }
  if (request.token().size() != kStdioTokenSize) {
    return Fail(Code::kInvalidArgument, "a stdio token has 32 bytes");
  }
  if (*connections_ >= kMaxSocketConnections) {
    Rest(request.name());
    return Fail(Code::kResourceExhausted,
                fmt::format("{} connections of sockets are there", kMaxSocketConnections));
  }
  auto connection = wyvern::Accept(socket->second.listener);
  if (!connection) {
    Rest(request.name());
    const int number = connection.error().sys_errno();
    return number == EMFILE || number == ENFILE || number == ENOMEM || number == ENOBUFS
               ? Result<>(tl::unexpected(std::move(connection).error()))
               : Fail(Code::kUnavailable, "nobody waits");
  }
  auto joining = std::make_shared<Joining>(loop_, connections_);
  joining->connection = std::move(*connection);
  WV_TRY_VOID(hub_.Expect(request.token(), [this, joining](UniqueFd stream) {
    loop_.Remove(std::exchange(joining->timer, EventLoop::Token::kNone));
    auto relay =
        StreamRelay::Start(loop_, std::move(joining->connection), std::move(stream), [joining] {});
    if (!relay) {
      WV_WARN_LIMITED("a connection to a socket of the host: {}", relay.error().message());
    }
  }));
  if (joining->connection.valid()) {
    joining->timer = loop_.After(kStdioTimeout, [this, joining, token = request.token()] {
      joining->timer = EventLoop::Token::kNone;
      hub_.Forget(token);
    });
  }
  loop_.Remove(std::exchange(socket->second.token, EventLoop::Token::kNone));
  return Watch(request.name());
}

void HostSockets::Remove(const std::string& name) {
  const auto socket = sockets_.find(name);
  if (socket == sockets_.end()) {
    return;
  }
  loop_.Remove(socket->second.token);
  unlink(PathOf(name).c_str());
  sockets_.erase(socket);
}

}  // namespace wyvern::agent
