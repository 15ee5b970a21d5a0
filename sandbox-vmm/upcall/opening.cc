#include "upcall/opening.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/unix_socket.h"
#include "upcall/preamble.h"

namespace wyvern::upcall {

namespace {

// Linux drops what comes while nobody has the port open, so the preamble is said again.
constexpr std::chrono::milliseconds kPreambleAgain(500);

int PollTimeout(Time until) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 60'000));
}

tl::unexpected<Error> NotOpened() {
  return Fail(Code::kDeadlineExceeded, "the guest's agent did not answer on the upcall channel");
}

tl::unexpected<Error> Cut() {
  return Fail(Code::kUnavailable, "the upcall channel was cut while it was opened");
}

Result<Nonce> SendPreamble(FdRef socket) {
  Nonce nonce{};
  if (getrandom(nonce.data(), nonce.size(), 0) != static_cast<ssize_t>(nonce.size())) {
    return SysError("getrandom");
  }
  const Preamble preamble = MakePreamble(nonce);
  iovec part{.iov_base = const_cast<std::byte*>(preamble.data()), .iov_len = preamble.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  // A port whose guest takes nothing has room for many of these; a part of one would be none.
  const ssize_t sent = sendmsg(socket.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(preamble.size())) {
    return Cut();
  }
  return nonce;
}

}  // namespace

Result<UniqueFd> Opening::Open(const OpenChannel& open, Time deadline) {
  WV_TRY(SocketPair pair, MakeSocketPair(SOCK_STREAM));
  {
    const std::lock_guard lock(mu_);
    ours_ = std::move(pair.first);
  }
  // The word may come late: to whoever still is there.
  WV_TRY(const ChannelKind kind,
         open(std::move(pair.second), [weak = weak_from_this()](Result<> connected) {
           if (const auto self = weak.lock()) {
             const std::lock_guard lock(self->mu_);
             self->answer_.emplace(std::move(connected));
             self->changed_.notify_all();
           }
         }));
  WV_TRY_VOID(kind == ChannelKind::kVsock ? AwaitAccept(deadline) : AwaitPreamble(deadline));
  const std::lock_guard lock(mu_);
  if (cancelled_) {
    return Fail(Code::kCancelled, "the upcall channel is closed");
  }
  return std::move(ours_);
}

void Opening::Cancel() {
  const std::lock_guard lock(mu_);
  cancelled_ = true;
  if (ours_.valid()) {
    (void)shutdown(ours_.get(), SHUT_RDWR);
  }
  changed_.notify_all();
}

bool Opening::cancelled() const {
  const std::lock_guard lock(mu_);
  return cancelled_;
}

Result<> Opening::AwaitAccept(Time deadline) {
  std::unique_lock lock(mu_);
  const bool told =
      changed_.wait_until(lock, deadline, [this] { return cancelled_ || answer_.has_value(); });
  if (cancelled_) {
    return Fail(Code::kCancelled, "the upcall channel is closed");
  }
  if (!told) {
    return NotOpened();
  }
  return *std::move(answer_);
}

// Nobody else reads ours_ meanwhile, nor takes it: only this thread does.
Result<> Opening::AwaitPreamble(Time deadline) {
  PreambleScanner scanner;
  Nonce nonce{};
  Time again = Clock::now();
  while (true) {
    if (cancelled()) {
      return Fail(Code::kCancelled, "the upcall channel is closed");
    }
    if (Clock::now() >= deadline) {
      return NotOpened();
    }
    if (Clock::now() >= again) {
      WV_TRY(nonce, SendPreamble(ours_));
      again = Clock::now() + kPreambleAgain;
    }
    pollfd polled{.fd = ours_.get(), .events = POLLIN, .revents = 0};
    if (poll(&polled, 1, PollTimeout(std::min(deadline, again))) <= 0) {
      continue;
    }
    std::array<std::byte, 4096> buffer;
    WV_TRY(const size_t count, ReadSome(ours_, buffer));
    if (count == 0) {
      return Cut();
    }
    auto rest = std::span(buffer).first(count);
    while (const auto end = scanner.Feed(rest)) {
      rest = rest.subspan(*end);
      if (scanner.nonce() == nonce) {
        // The agent has nothing to say yet, and what it says would be lost here.
        return rest.empty() ? Result<>() : Cut();
      }
    }
  }
}

}  // namespace wyvern::upcall
