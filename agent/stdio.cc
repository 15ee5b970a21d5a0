#include "agent/stdio.h"

#include <sys/socket.h>

#include <array>
#include <utility>

#include "base/log.h"
#include "base/unix_socket.h"

namespace wyvern::agent {
namespace {

constexpr size_t kMaxArrivals = 4096;

}  // namespace

Result<std::unique_ptr<StdioHub>> StdioHub::Create(EventLoop& loop, UniqueFd listener,
                                                   Filter filter) {
  WV_TRY_VOID(SetNonBlocking(listener, true));
  std::unique_ptr<StdioHub> hub(new StdioHub(loop, std::move(listener), std::move(filter)));
  StdioHub* raw = hub.get();
  WV_TRY(hub->token_, loop.Add(raw->listener_, EPOLLIN, [raw](uint32_t) { raw->AcceptSome(); }));
  return hub;
}

StdioHub::~StdioHub() {
  loop_.Remove(token_);
  while (!arrivals_.empty()) {
    (void)Release(arrivals_.begin());
  }
}

Result<> StdioHub::Expect(const std::string& token, Ready ready) {
  if (token.size() != kStdioTokenSize) {
    return Fail(Code::kInvalidArgument, "a stdio token has 32 bytes");
  }
  if (expected_.contains(token)) {
    return Fail(Code::kAlreadyExists, "a stdio token is used once");
  }
  for (auto it = arrivals_.begin(); it != arrivals_.end(); ++it) {
    if (it->token == token) {
      ready(Release(it));
      return {};
    }
  }
  expected_.emplace(token, std::move(ready));
  return {};
}

void StdioHub::Forget(const std::string& token) {
  expected_.erase(token);
}

void StdioHub::AcceptSome() {
  while (true) {
    auto connection = Accept(listener_, SOCK_NONBLOCK);
    if (!connection) {
      return;
    }
    if ((filter_ && !filter_(*connection)) || arrivals_.size() >= kMaxArrivals) {
      WV_WARN_LIMITED("stdio: a connection was refused");
      continue;
    }
    const auto arrival = arrivals_.emplace(arrivals_.end());
    arrival->fd = *std::move(connection);
    auto read = loop_.Add(arrival->fd, EPOLLIN, [this, arrival](uint32_t) { OnReadable(arrival); });
    if (!read) {
      WV_WARN_LIMITED("stdio: {}", read.error().message());
      arrivals_.erase(arrival);
      continue;
    }
    arrival->read = *read;
    arrival->timeout = loop_.After(kStdioTimeout, [this, arrival] {
      WV_WARN_LIMITED("stdio: a stream was closed: no process expects it");
      arrival->timeout = EventLoop::Token::kNone;
      (void)Release(arrival);
    });
  }
}

void StdioHub::OnReadable(std::list<Arrival>::iterator arrival) {
  std::array<std::byte, kStdioTokenSize> buffer{};
  auto count =
      ReadSome(arrival->fd, std::span(buffer).first(kStdioTokenSize - arrival->token.size()));
  if (!count && count.error().sys_errno() == EAGAIN) {
    return;
  }
  if (!count || *count == 0) {
    (void)Release(arrival);
    return;
  }
  arrival->token.append(reinterpret_cast<const char*>(buffer.data()), *count);
  if (arrival->token.size() < kStdioTokenSize) {
    return;
  }
  const auto expected = expected_.find(arrival->token);
  if (expected == expected_.end()) {
    // Not yet, perhaps. What follows the token is not read: it is the process's.
    loop_.Remove(std::exchange(arrival->read, EventLoop::Token::kNone));
    return;
  }
  const Ready ready = std::move(expected->second);
  expected_.erase(expected);
  ready(Release(arrival));
}

UniqueFd StdioHub::Release(std::list<Arrival>::iterator arrival) {
  for (const EventLoop::Token token : {arrival->read, arrival->timeout}) {
    if (token != EventLoop::Token::kNone) {
      loop_.Remove(token);
    }
  }
  UniqueFd fd = std::move(arrival->fd);
  arrivals_.erase(arrival);
  return fd;
}

}  // namespace wyvern::agent
