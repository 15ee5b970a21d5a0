// vhost_user/connection.h — one vhost-user message after the other over a stream socket, with
// descriptors and deadlines.
// Errors:  Fault for what the peer did (closing included): the connection is of no use afterwards.
// Threads: one user at a time.
// Trust:   length, flags, descriptors and timing are the peer's: a message is taken whole or not at
//          all, at most kMaxPayload long.
#pragma once

#include <poll.h>

#include <chrono>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "base/fd.h"
#include "vhost_user/messages.h"

namespace wyvern::vhost_user {

enum class Fault : uint8_t {
  kClosed = 1,       // the peer hung up
  kTimeout = 2,      // not (wholly) there in time
  kIo = 3,           // the socket failed
  kTruncated = 4,    // the peer hung up within a message
  kBadVersion = 5,   // header flags
  kPayloadSize = 6,  // longer than any message, or not what the request carries
  kFdCount = 7,      // too many or too few descriptors, or in the wrong place
  kUnexpected = 8,   // a reply to something else, a request where a reply is due
  kRefused = 9,      // the peer said no: nothing is wrong with the connection
};

const char* FaultName(Fault fault);

template <typename T = void>
using Wire = tl::expected<T, Fault>;

inline constexpr size_t kMaxPayload = 4096;

struct Message {
  Header header;
  std::vector<std::byte> payload;
  std::vector<UniqueFd> fds;

  // The payload's beginning as a T; what is missing is zero.
  template <typename T>
  T As() const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    std::memcpy(&value, payload.data(), std::min(sizeof(T), payload.size()));
    return value;
  }
};

class Connection {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Connection(UniqueFd socket) : socket_(std::move(socket)) {}

  FdRef fd() const { return socket_; }

  // Blocks at most until `deadline`.
  Wire<Message> Receive(Clock::time_point deadline);

  // Until there is something to receive, a hang-up, too.
  Wire<> WaitReadable(Clock::time_point deadline) const { return WaitFor(POLLIN, deadline); }

  Wire<> Send(uint32_t request, uint32_t flags, std::span<const std::byte> payload,
              std::span<const FdRef> fds, Clock::time_point deadline);

  Wire<> Send(Request request, uint32_t flags, std::span<const std::byte> payload,
              std::span<const FdRef> fds, Clock::time_point deadline) {
    return Send(static_cast<uint32_t>(request), flags, payload, fds, deadline);
  }

  Wire<> Send(BackendRequest request, uint32_t flags, std::span<const std::byte> payload,
              std::span<const FdRef> fds, Clock::time_point deadline) {
    return Send(static_cast<uint32_t>(request), flags, payload, fds, deadline);
  }

  // Ends the connection for both sides; the descriptor stays.
  void Shutdown() const;

 private:
  Wire<> WaitFor(short events, Clock::time_point deadline) const;

  UniqueFd socket_;
};

}  // namespace wyvern::vhost_user
