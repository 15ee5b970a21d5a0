#include "agent/dial.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "base/log.h"
#include "base/stream_relay.h"

namespace wyvern::agent {
namespace {

constexpr uint32_t kHighestTcpPort = 65535;

// Only starts it: the answer is an event.
int StartConnecting(FdRef socket, int family, uint16_t port) {
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(port);
  v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(port);
  v6.sin6_addr = in6addr_loopback;
  const bool is_v4 = family == AF_INET;
  const int result = connect(
      socket.get(),
      is_v4 ? reinterpret_cast<const sockaddr*>(&v4) : reinterpret_cast<const sockaddr*>(&v6),
      is_v4 ? sizeof(v4) : sizeof(v6));
  return result == 0 || errno == EINPROGRESS ? 0 : errno;
}

}  // namespace

struct Dialer::Attempt {
  Attempt(EventLoop& event_loop, std::shared_ptr<size_t> dials, ttrpc::Responder<v1::Empty> answer)
      : loop(event_loop), count(std::move(dials)), responder(std::move(answer)) {
    ++*count;
  }

  ~Attempt() {
    Unwatch();
    --*count;
  }

  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  void Unwatch() {
    loop.Remove(std::exchange(event, EventLoop::Token::kNone));
    loop.Remove(std::exchange(timer, EventLoop::Token::kNone));
  }

  EventLoop& loop;
  const std::shared_ptr<size_t> count;
  const ttrpc::Responder<v1::Empty> responder;
  uint16_t port = 0;
  std::string token;
  UniqueFd socket;
  EventLoop::Token event = EventLoop::Token::kNone;
  EventLoop::Token timer = EventLoop::Token::kNone;
};

void Dialer::Dial(const v1::DialTcpRequest& request, const ttrpc::Responder<v1::Empty>& responder) {
  if (request.port() == 0 || request.port() > kHighestTcpPort) {
    responder.Fail(Error(Code::kInvalidArgument, "a port is 1 to 65535"));
    return;
  }
  if (request.token().size() != kStdioTokenSize) {
    responder.Fail(Error(Code::kInvalidArgument, "a stdio token has 32 bytes"));
    return;
  }
  if (*count_ >= kMaxDials) {
    responder.Fail(Error(Code::kResourceExhausted,
                         fmt::format("{} connections are being forwarded", kMaxDials)));
    return;
  }
  auto attempt = std::make_shared<Attempt>(loop_, count_, responder);
  attempt->port = static_cast<uint16_t>(request.port());
  attempt->token = request.token();
  attempt->timer = loop_.After(kDialTimeout, [attempt] {
    attempt->timer = EventLoop::Token::kNone;
    attempt->Unwatch();
    attempt->responder.Fail(
        Error(Code::kDeadlineExceeded, fmt::format("port {} does not answer", attempt->port)));
  });
  Try(attempt, AF_INET);
}

void Dialer::Try(const std::shared_ptr<Attempt>& attempt, int family) {
  attempt->socket.Reset(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!attempt->socket.valid()) {
    Failed(attempt, family, errno);
    return;
  }
  if (const int error = StartConnecting(attempt->socket, family, attempt->port); error != 0) {
    Failed(attempt, family, error);
    return;
  }
  auto event = loop_.Add(attempt->socket, EPOLLOUT,
                         [this, attempt, family](uint32_t) { OnEvents(attempt, family); });
  if (!event) {
    Failed(attempt, AF_INET6, ENOMEM);
    return;
  }
  attempt->event = *event;
}

void Dialer::OnEvents(const std::shared_ptr<Attempt>& attempt, int family) {
  loop_.Remove(std::exchange(attempt->event, EventLoop::Token::kNone));
  int error = 0;
  socklen_t size = sizeof(error);
  if (getsockopt(attempt->socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
    error = errno;
  }
  if (error != 0) {
    Failed(attempt, family, error);
  } else {
    Connected(attempt);
  }
}

void Dialer::Failed(const std::shared_ptr<Attempt>& attempt, int family, int error) {
  if (family == AF_INET) {
    Try(attempt, AF_INET6);
    return;
  }
  attempt->Unwatch();
  attempt->responder.Fail(Error(
      Code::kUnavailable,
      fmt::format("nobody listens on port {} of localhost (errno {})", attempt->port, error)));
}

void Dialer::Connected(const std::shared_ptr<Attempt>& attempt) {
  attempt->Unwatch();
  // Held until the stream has come, or is given up.
  auto expected = hub_.Expect(attempt->token, [this, attempt](UniqueFd stream) {
    attempt->Unwatch();
    auto relay =
        StreamRelay::Start(loop_, std::move(attempt->socket), std::move(stream), [attempt] {});
    if (!relay) {
      WV_WARN_LIMITED("forwarding to port {}: {}", attempt->port, relay.error().message());
    }
  });
  if (!expected) {
    attempt->responder.Fail(std::move(expected).error());
    return;
  }
  if (attempt->socket.valid()) {
    attempt->timer = loop_.After(kStdioTimeout, [this, attempt] {
      attempt->timer = EventLoop::Token::kNone;
      hub_.Forget(attempt->token);
    });
  }
  attempt->responder.Ok({});
}

}  // namespace wyvern::agent
