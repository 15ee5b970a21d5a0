// The front-end's thread: the end of the connection, calls to carry on, and what the back-end asks.
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "vhost_user/frontend.h"

namespace wyvern::vhost_user {

namespace {

constexpr uint64_t kWatchHangUp = ~uint64_t{0};
constexpr uint64_t kWatchStop = ~uint64_t{1};
constexpr uint64_t kWatchRequests = ~uint64_t{2};
// And, in the lower half, which of the descriptors that there were.
constexpr uint64_t kWatchErrors = uint64_t{1} << 32U;
// For the rest of a request that has begun: meanwhile no call is carried on.
constexpr std::chrono::milliseconds kRequestTimeout(1000);

Result<> AddToEpoll(const UniqueFd& epoll, int fd, uint32_t events, uint64_t data) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = data;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return SysError("epoll_ctl(ADD) of the vhost-user socket");
  }
  return {};
}

}  // namespace

// From here on the back-end is watched and may ask.
Result<> Frontend::Attach() {
  const std::lock_guard lock(mu_);
  // Only the end of the connection: replies are read by who waits for them.
  WV_TRY_VOID(AddToEpoll(epoll_, channel_->fd().get(), EPOLLRDHUP, kWatchHangUp));
  watched_socket_ = channel_->fd().get();
  watched_features_ = protocol_features_;
  if (our_requests_.valid()) {
    const int fd = our_requests_.get();
    requests_ = std::make_shared<Connection>(std::move(our_requests_));
    WV_TRY_VOID(AddToEpoll(epoll_, fd, EPOLLIN, kWatchRequests));
  }
  lost_ = false;
  return {};
}

void Frontend::Detach() {
  const std::lock_guard lock(mu_);
  if (watched_socket_ >= 0) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, watched_socket_, nullptr);
    watched_socket_ = -1;
  }
  if (requests_ != nullptr) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, requests_->fd().get(), nullptr);
    requests_.reset();
  }
  lost_ = true;
}

void Frontend::Watch(const EventFd& stop) {
  if (options_.on_thread_start) {
    options_.on_thread_start();
  }
  if (const auto stops = AddToEpoll(epoll_, stop.fd().get(), EPOLLIN, kWatchStop); !stops) {
    WV_ERROR("{}: {}", options_.name, stops.error().message());
    return;
  }
  for (;;) {
    epoll_event event{};
    const int ready = ::epoll_wait(epoll_.get(), &event, 1, -1);
    if (ready < 0 && errno != EINTR) {
      WV_ERROR("{}: epoll_wait: {}", options_.name, strerrordesc_np(errno));
      return;
    }
    if (ready <= 0) {
      continue;
    }
    if (event.data.u64 == kWatchStop) {
      return;
    }
    Dispatch(event.data.u64);
  }
}

void Frontend::Dispatch(uint64_t what) {
  if (what == kWatchHangUp) {
    OnHangUp();
  } else if (what == kWatchRequests) {
    OnRequest();
  } else if ((what & kWatchErrors) != 0) {
    OnError(static_cast<uint32_t>(what));
  } else {
    Relay(static_cast<uint16_t>(what));
  }
}

void Frontend::Relay(uint16_t index) {
  const std::lock_guard lock(mu_);
  Queue& queue = queues_[index];
  if (queue.relay) {
    queue.interrupt->SignalQueue(index);
  }
}

Result<> Frontend::RenewErrors() {
  WV_TRY(EventFd error, EventFd::Create());
  const std::lock_guard lock(mu_);
  if (error_) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, error_->fd().get(), nullptr);
  }
  error_.emplace(std::move(error));
  return AddToEpoll(epoll_, error_->fd().get(), EPOLLIN | EPOLLET, kWatchErrors | ++error_number_);
}

// The lock is held: a reset comes either before, and the error is of old, or after, and undoes it.
void Frontend::OnError(uint32_t number) {
  const std::lock_guard lock(mu_);
  if (number == error_number_) {
    NeedsReset();
  }
}

void Frontend::OnHangUp() {
  if (lost()) {
    return;
  }
  Detach();
  mappings_.UnmapAll();
  losses_.fetch_add(1, std::memory_order_relaxed);
  WV_ERROR("{}: the vhost-user back-end is lost", options_.name);
  if (!options_.reconnects) {
    NeedsReset();
  }
  std::function<void(std::string)> callback;
  {
    const std::lock_guard lock(mu_);
    callback = on_lost_;
  }
  if (callback) {
    callback(fmt::format("the back-end of {} is lost", options_.name));
  }
}

void Frontend::OnRequest() {
  std::shared_ptr<Connection> connection;
  uint64_t features = 0;
  {
    const std::lock_guard lock(mu_);
    connection = requests_;
    features = watched_features_;
  }
  if (connection == nullptr) {
    return;
  }
  const Wire<> answered = Answer(*connection, features);
  if (answered) {
    return;
  }
  const std::lock_guard lock(mu_);
  if (requests_ != connection) {
    return;
  }
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection->fd().get(), nullptr);
  requests_.reset();
  // A back-end may close this channel; one that breaks its rules is not to be trusted with the rest.
  if (answered.error() != Fault::kClosed && watched_socket_ >= 0) {
    WV_WARN("{}: request of the back-end: {}", options_.name, FaultName(answered.error()));
    ::shutdown(watched_socket_, SHUT_RDWR);
  }
}

Wire<> Frontend::Answer(Connection& connection, uint64_t protocol_features) {
  const auto deadline = Connection::Clock::now() + kRequestTimeout;
  WV_TRY(Message message, connection.Receive(deadline));
  const uint32_t id = message.header.request;
  const RequestRule* rule = FindRule(BackendRequestRules(), id);
  if (rule != nullptr &&
      (message.payload.size() < rule->min_size || message.payload.size() > rule->max_size)) {
    return tl::unexpected(Fault::kPayloadSize);
  }
  if (rule != nullptr &&
      (message.fds.size() < rule->min_fds || message.fds.size() > rule->max_fds)) {
    return tl::unexpected(Fault::kFdCount);
  }
  backend_requests_.fetch_add(1, std::memory_order_relaxed);
  const bool known = rule != nullptr && (protocol_features & rule->needs) == rule->needs;
  std::vector<UniqueFd> fds = std::move(message.fds);
  const Result<> done =
      known ? Act(message, fds) : Result<>(Fail(Code::kUnimplemented, "was not negotiated"));
  if (!done) {
    backend_requests_refused_.fetch_add(1, std::memory_order_relaxed);
    WV_WARN_LIMITED("{}: {} ({}) refused: {}", options_.name, BackendRequestName(id), id,
                    done.error().message());
  }
  if ((message.header.flags & kFlagNeedReply) == 0 ||
      (protocol_features & kProtocolReplyAck) == 0) {
    return {};
  }
  const uint64_t code = done ? 0 : 1;
  return connection.Send(id, kFlagReply, std::as_bytes(std::span(&code, 1)), {}, deadline);
}

Result<> Frontend::Act(const Message& message, std::vector<UniqueFd>& fds) {
  switch (static_cast<BackendRequest>(message.header.request)) {
    case BackendRequest::kConfigChange:
      OnConfigChange();
      return {};
    case BackendRequest::kShmemMap:
      return mappings_.Map(message.As<ShmemMapping>(), std::move(fds.front()));
    case BackendRequest::kShmemUnmap:
      return mappings_.Unmap(message.As<ShmemMapping>());
  }
  return Fail(Code::kUnimplemented, "not a request of ours");
}

// Read when the driver asks: here nobody may wait for the back-end, which may be waiting for us.
void Frontend::OnConfigChange() {
  config_stale_ = true;
  std::shared_ptr<virtio::Interrupt> interrupt;
  {
    const std::lock_guard lock(mu_);
    interrupt = interrupt_;
  }
  if (interrupt != nullptr) {
    interrupt->SignalConfig();
  }
}

}  // namespace wyvern::vhost_user
