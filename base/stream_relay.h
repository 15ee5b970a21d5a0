// base/stream_relay.h — what one of two stream sockets says the other hears, both ways.
// Shape:   at most kChunk of each direction waits here; nothing more is read before it has left. The end of what one says is the end of what the
//          other hears (SHUT_WR); the other way goes on. A side that is gone ends both.
// Life:    keeps itself alive until both directions have ended, or Stop.
// Threads: the loop's.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/fd.h"

namespace wyvern {

class StreamRelay : public std::enable_shared_from_this<StreamRelay> {
 public:
  static constexpr size_t kChunk = 64 << 10;

  // `done` (may be empty) is called once, on the loop, when both sockets are closed; not after Stop.
  static Result<std::shared_ptr<StreamRelay>> Start(EventLoop& loop, UniqueFd one, UniqueFd other,
                                                    std::function<void()> done);
  ~StreamRelay();
  StreamRelay(const StreamRelay&) = delete;
  StreamRelay& operator=(const StreamRelay&) = delete;

  // Closes both, and drops `done`. Idempotent.
  void Stop();

 private:
  struct Side {
    UniqueFd fd;
    EventLoop::Token token = EventLoop::Token::kNone;
    std::string said;  // not all of it heard by the other yet: from `sent` on
    size_t sent = 0;
    bool ended = false;  // says no more
    bool told = false;   // the other was told so
    bool readable = true, writable = true;
  };

  StreamRelay(EventLoop& loop, std::function<void()> done);
  Result<> Register(Side& side);
  void OnEvents(Side& side, uint32_t events);
  void Run();
  // True: something was moved. gone_: the side is.
  bool Read(Side& side);
  bool Write(Side& from, Side& to);
  bool Move(Side& from, Side& to);

  EventLoop& loop_;
  std::function<void()> done_;
  std::array<Side, 2> sides_;
  bool gone_ = false;
  std::shared_ptr<StreamRelay> self_;
};

}  // namespace wyvern
