// agent/stdio.h — the stdio listener: finds for each stream of the host the process it belongs to, by its one-time token.
// Shape:   the host connects and sends 32 bytes; from then on the stream is the file. Token and expectation may come in either order.
// Errors:  a stream whose token nobody expects within kStdioTimeout is closed; one counter of them waits at most.
// Threads: the loop's thread.   Trust: the accept filter lets the host pass only; a token is used once.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/fd.h"

namespace wyvern::agent {

inline constexpr size_t kStdioTokenSize = 32;
inline constexpr std::chrono::milliseconds kStdioTimeout(10'000);

class StdioHub {
 public:
  using Ready = std::function<void(UniqueFd stream)>;
  using Filter = std::function<bool(FdRef)>;

  static Result<std::unique_ptr<StdioHub>> Create(EventLoop& loop, UniqueFd listener,
                                                  Filter filter);
  ~StdioHub();
  StdioHub(const StdioHub&) = delete;
  StdioHub& operator=(const StdioHub&) = delete;

  // `ready` gets the (non-blocking) stream, from the loop or from here. INVALID_ARGUMENT for a token of another size,
  // ALREADY_EXISTS for one in use.
  Result<> Expect(const std::string& token, Ready ready);
  // Idempotent.
  void Forget(const std::string& token);

 private:
  struct Arrival {
    UniqueFd fd;
    std::string token;  // what has come of it
    EventLoop::Token read = EventLoop::Token::kNone;
    EventLoop::Token timeout = EventLoop::Token::kNone;
  };

  explicit StdioHub(EventLoop& loop, UniqueFd listener, Filter filter)
      : loop_(loop), listener_(std::move(listener)), filter_(std::move(filter)) {}

  void AcceptSome();
  void OnReadable(std::list<Arrival>::iterator arrival);
  // Takes it out of the list.
  UniqueFd Release(std::list<Arrival>::iterator arrival);

  EventLoop& loop_;
  UniqueFd listener_;
  Filter filter_;
  EventLoop::Token token_ = EventLoop::Token::kNone;
  std::map<std::string, Ready> expected_;
  std::list<Arrival> arrivals_;
};

}  // namespace wyvern::agent
