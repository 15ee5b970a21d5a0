// vhost_user/frontend_channel.h — requests of a front-end and what the back-end says to them, each
// within a deadline.
// Errors:  UNAVAILABLE: the back-end is gone, stalls, or does not keep to the protocol; the
//          connection is then shut down and every further request fails at once. INTERNAL: it
//          refused a request (REPLY_ACK).
// Threads: one user at a time.
// Trust:   replies are the back-end's.
#pragma once

#include <algorithm>
#include <chrono>
#include <span>

#include "vhost_user/connection.h"

namespace wyvern::vhost_user {

class FrontendChannel {
 public:
  // What a reply may be.
  struct Expected {
    size_t min_size = 0;
    size_t max_size = 0;
    size_t max_fds = 0;
  };

  // `drain_timeout`: for requests that a back-end answers when it has finished what is in flight, or
  // has its state; at least `timeout`, after which that is logged.
  FrontendChannel(UniqueFd socket, std::chrono::milliseconds timeout,
                  std::chrono::milliseconds drain_timeout)
      : connection_(std::move(socket)),
        timeout_(timeout),
        drain_timeout_(std::max(timeout, drain_timeout)) {}

  FdRef fd() const { return connection_.fd(); }

  // Rings of this back-end run: what changes under them (memory, features, the log) may stop them
  // first, and drain what is in flight.
  void set_rings_run(bool run) { rings_run_ = run; }

  // With REPLY_ACK among them the success of every Set is waited for.
  void set_protocol_features(uint64_t features) { protocol_features_ = features; }

  Result<> Set(Request request, std::span<const std::byte> payload,
               std::span<const FdRef> fds = {});

  template <typename T>
  Result<> SetValue(Request request, const T& value, std::span<const FdRef> fds = {}) {
    return Set(request, std::as_bytes(std::span(&value, 1)), fds);
  }

  // A request that has a reply of its own: exactly a T.
  template <typename T>
  Result<T> Get(Request request, std::span<const std::byte> payload = {}) {
    WV_TRY(const Message reply, Ask(request, payload, {}, {sizeof(T), sizeof(T), 0}));
    return reply.As<T>();
  }

  Result<Message> Ask(Request request, std::span<const std::byte> payload,
                      std::span<const FdRef> fds, const Expected& expected);

  // The reply makes no sense: as any other breach.
  tl::unexpected<Error> Lose(Request request, Fault fault);

 private:
  bool TakesItsTime(Request request) const;
  Wire<> AwaitDrained(Request request) const;
  Wire<Message> ReceiveReply(Request request, const Expected& expected,
                             Connection::Clock::time_point deadline);

  Connection connection_;
  const std::chrono::milliseconds timeout_;
  const std::chrono::milliseconds drain_timeout_;
  uint64_t protocol_features_ = 0;
  bool rings_run_ = false;
  bool lost_ = false;
};

}  // namespace wyvern::vhost_user
