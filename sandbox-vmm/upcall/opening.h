// upcall/opening.h — a stream to the guest's agent while it is being opened.
// Shape:   one end of a socketpair goes to the device that carries the stream, the other is the session's. On a console port the session
//          begins with a preamble (upcall/preamble.h), on vsock with the device's word that the guest has accepted.
// Errors:  UNAVAILABLE: refused, or cut meanwhile; DEADLINE_EXCEEDED; CANCELLED by Cancel; else those of the device.
// Threads: Open by one thread; Cancel by any; the device's word from any, also after the end of all this.
// Trust:   what comes before the preamble is the guest's and dropped, for as long as the deadline lasts.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "base/fd.h"

namespace wyvern::upcall {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;

enum class ChannelKind : uint8_t { kVsock, kConsole };

// Joins `socket`, which it takes, with the agent and says by what. `connected` is called once, from any thread, with vsock only.
// FAILED_PRECONDITION: the machine has no way to the agent.
using OpenChannel =
    std::function<Result<ChannelKind>(UniqueFd socket, std::function<void(Result<>)> connected)>;

class Opening : public std::enable_shared_from_this<Opening> {
 public:
  // The session's end, ready for ttrpc.
  Result<UniqueFd> Open(const OpenChannel& open, Time deadline);
  // Open ends soon.
  void Cancel();

 private:
  Result<> AwaitAccept(Time deadline);
  Result<> AwaitPreamble(Time deadline);
  bool cancelled() const;

  mutable std::mutex mu_;
  std::condition_variable changed_;
  UniqueFd ours_;                   // set and taken with mu_ held
  bool cancelled_ = false;          // guarded by mu_
  std::optional<Result<>> answer_;  // guarded by mu_
};

}  // namespace wyvern::upcall
