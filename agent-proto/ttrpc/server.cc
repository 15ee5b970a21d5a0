#include "ttrpc/server.h"

#include <sys/socket.h>
// clang-format off: the next one needs sockaddr
#include <linux/vm_sockets.h>
// clang-format on
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <map>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "ttrpc/server_connection.h"

namespace wyvern::ttrpc {
namespace {

constexpr int kAcceptsPerEvent = 64;
constexpr std::chrono::milliseconds kAcceptPause(100);

}  // namespace

bool PeerIsVsockHost(FdRef connection) {
  sockaddr_vm address{};
  socklen_t length = sizeof(address);
  if (getpeername(connection.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return false;
  }
  return address.svm_family == AF_VSOCK && address.svm_cid == VMADDR_CID_HOST;
}

bool PeerIsRootOrSelf(FdRef connection) {
  const auto credentials = GetPeerCredentials(connection);
  return credentials && (credentials->uid == 0 || credentials->uid == geteuid());
}

class Server::Impl {
 public:
  Impl(EventLoop& loop, ServerOptions options) : loop_(loop), options_(std::move(options)) {}

  ~Impl() {
    CloseListeners();
    for (auto& [key, connection] : connections_) {
      connection->Detach();
    }
  }

  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void Register(std::string service, std::string method, Method handler) {
    const bool added =
        methods_[std::move(service)].emplace(std::move(method), std::move(handler)).second;
    WV_CHECK(added);
  }

  Result<> Listen(UniqueFd fd, AcceptFilter filter);
  Result<> Adopt(UniqueFd connection);
  void CloseListeners();

  size_t connection_count() const { return connections_.size(); }

 private:
  struct Listener {
    UniqueFd fd;
    AcceptFilter filter;
    EventLoop::Token token = EventLoop::Token::kNone;
    EventLoop::Token resume = EventLoop::Token::kNone;
  };

  void AcceptSome(Listener& listener);
  void PauseAccepting(Listener& listener);

  EventLoop& loop_;
  const ServerOptions options_;
  MethodTable methods_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::map<const ServerConnection*, std::shared_ptr<ServerConnection>> connections_;
};

Result<> Server::Impl::Listen(UniqueFd fd, AcceptFilter filter) {
  WV_TRY_VOID(SetNonBlocking(fd, true));
  auto listener = std::make_unique<Listener>();
  listener->fd = std::move(fd);
  listener->filter = std::move(filter);
  Listener* raw = listener.get();
  WV_TRY(listener->token, loop_.Add(raw->fd, EPOLLIN, [this, raw](uint32_t) { AcceptSome(*raw); }));
  listeners_.push_back(std::move(listener));
  return {};
}

void Server::Impl::AcceptSome(Listener& listener) {
  for (int i = 0; i < kAcceptsPerEvent; ++i) {
    auto connection = Accept(listener.fd, SOCK_NONBLOCK);
    if (!connection) {
      const int number = connection.error().sys_errno();
      if (number == EMFILE || number == ENFILE || number == ENOMEM || number == ENOBUFS) {
        PauseAccepting(listener);
      }
      // Everything else is a connection that ended before we took it, or none.
      return;
    }
    if (listener.filter && !listener.filter(*connection)) {
      WV_WARN_LIMITED("{}: a connection was refused: not a peer we serve", options_.name);
      continue;
    }
    if (auto adopted = Adopt(*std::move(connection)); !adopted) {
      WV_WARN_LIMITED("{}: {}", options_.name, adopted.error().message());
    }
  }
}

// Out of descriptors: the pending connection stays readable, and the loop would spin.
void Server::Impl::PauseAccepting(Listener& listener) {
  WV_WARN_LIMITED("{}: no descriptors left to accept a connection; trying again", options_.name);
  (void)loop_.Modify(listener.token, 0);
  listener.resume = loop_.After(kAcceptPause, [this, &listener] {
    listener.resume = EventLoop::Token::kNone;
    (void)loop_.Modify(listener.token, EPOLLIN);
  });
}

Result<> Server::Impl::Adopt(UniqueFd fd) {
  if (connections_.size() >= options_.max_connections) {
    return Fail(Code::kResourceExhausted,
                fmt::format("a connection was refused: {} are open", connections_.size()));
  }
  auto connection = std::make_shared<ServerConnection>(loop_, std::move(fd), methods_, options_);
  const ServerConnection* key = connection.get();
  WV_TRY_VOID(connection->Start([this, key] {
    connections_.erase(key);
    if (options_.on_disconnect) {
      options_.on_disconnect(connections_.size());
    }
  }));
  connections_[key] = std::move(connection);
  return {};
}

void Server::Impl::CloseListeners() {
  for (const auto& listener : listeners_) {
    loop_.Remove(listener->token);
    if (listener->resume != EventLoop::Token::kNone) {
      loop_.Remove(listener->resume);
    }
  }
  listeners_.clear();
}

Result<std::unique_ptr<Server>> Server::Create(EventLoop& loop, ServerOptions options) {
  return std::unique_ptr<Server>(new Server(std::make_unique<Impl>(loop, std::move(options))));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() = default;

void Server::RegisterRawUnary(std::string service, std::string method, RawUnaryHandler handler) {
  impl_->Register(std::move(service), std::move(method),
                  {.unary = std::move(handler), .stream = {}, .bidi = {}});
}

void Server::RegisterRawStream(std::string service, std::string method, RawStreamHandler handler) {
  impl_->Register(std::move(service), std::move(method),
                  {.unary = {}, .stream = std::move(handler), .bidi = {}});
}

void Server::RegisterRawBidi(std::string service, std::string method, RawBidiHandler handler) {
  impl_->Register(std::move(service), std::move(method),
                  {.unary = {}, .stream = {}, .bidi = std::move(handler)});
}

Result<> Server::Listen(UniqueFd listener, AcceptFilter filter) {
  return impl_->Listen(std::move(listener), std::move(filter));
}

Result<> Server::Adopt(UniqueFd connection) {
  return impl_->Adopt(std::move(connection));
}

void Server::CloseListeners() {
  impl_->CloseListeners();
}

size_t Server::connection_count() const {
  return impl_->connection_count();
}

}  // namespace wyvern::ttrpc
