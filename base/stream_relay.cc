#include "base/stream_relay.h"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

namespace wyvern {

Result<std::shared_ptr<StreamRelay>> StreamRelay::Start(EventLoop& loop, UniqueFd one,
                                                        UniqueFd other,
                                                        std::function<void()> done) {
  std::shared_ptr<StreamRelay> relay(new StreamRelay(loop, std::move(done)));
  relay->sides_[0].fd = std::move(one);
  relay->sides_[1].fd = std::move(other);
  for (Side& side : relay->sides_) {
    WV_TRY_VOID(SetNonBlocking(side.fd, true));
    WV_TRY_VOID(relay->Register(side));
  }
  relay->self_ = relay;
  return relay;
}

StreamRelay::StreamRelay(EventLoop& loop, std::function<void()> done)
    : loop_(loop), done_(std::move(done)) {}

StreamRelay::~StreamRelay() {
  for (Side& side : sides_) {
    loop_.Remove(side.token);
  }
}

void StreamRelay::Stop() {
  const std::shared_ptr<StreamRelay> self = std::move(self_);
  // What it holds may hold this.
  const std::function<void()> done = std::exchange(done_, nullptr);
  for (Side& side : sides_) {
    loop_.Remove(std::exchange(side.token, EventLoop::Token::kNone));
    side.fd.Reset();
  }
}

// Edge-triggered: what is ready is kept in the side, and a full direction asks for nothing.
Result<> StreamRelay::Register(Side& side) {
  WV_TRY(side.token, loop_.Add(side.fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                               [this, &side](uint32_t events) { OnEvents(side, events); }));
  return {};
}

void StreamRelay::OnEvents(Side& side, uint32_t events) {
  side.readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
  side.writable |= (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
  Run();
}

void StreamRelay::Run() {
  bool moved = true;
  while (moved && !gone_) {
    moved = Move(sides_[0], sides_[1]);
    moved = Move(sides_[1], sides_[0]) || moved;
  }
  if (gone_ || (sides_[0].told && sides_[1].told)) {
    const std::function<void()> done = std::exchange(done_, nullptr);
    Stop();
    if (done) {
      done();
    }
  }
}

// True: something was moved, there may be more.
bool StreamRelay::Move(Side& from, Side& to) {
  bool moved = false;
  if (from.readable && !from.ended && from.said.empty()) {
    moved = Read(from);
  }
  if (!gone_ && to.writable && !from.said.empty()) {
    moved = Write(from, to) || moved;
  }
  if (from.ended && from.said.empty() && !from.told) {
    from.told = true;
    (void)shutdown(to.fd.get(), SHUT_WR);
  }
  return moved;
}

bool StreamRelay::Read(Side& side) {
  side.said.resize(kChunk);
  const ssize_t count = recv(side.fd.get(), side.said.data(), side.said.size(), 0);
  const int error = errno;
  side.said.resize(count > 0 ? static_cast<size_t>(count) : 0);
  side.sent = 0;
  if (count == 0) {
    side.ended = true;
  } else if (count < 0 && error != EINTR) {
    side.readable = false;
    gone_ = error != EAGAIN;
  }
  return count > 0;
}

bool StreamRelay::Write(Side& from, Side& to) {
  const ssize_t count =
      send(to.fd.get(), from.said.data() + from.sent, from.said.size() - from.sent, MSG_NOSIGNAL);
  if (count < 0) {
    to.writable = errno == EINTR;
    gone_ = errno != EINTR && errno != EAGAIN;
    return false;
  }
  from.sent += static_cast<size_t>(count);
  if (from.sent == from.said.size()) {
    from.said.clear();
  }
  return count > 0;
}

}  // namespace wyvern
