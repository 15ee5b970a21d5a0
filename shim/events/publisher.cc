#include "events/publisher.h"

#include <pthread.h>

#include <algorithm>
#include <optional>

#include "base/log.h"
#include "base/unix_socket.h"
#include "proto/containerd_events.pb.h"
#include "ttrpc/frame.h"

namespace wyvern::shim {

namespace {

constexpr const char* kService = "containerd.services.events.ttrpc.v1.Events";
constexpr const char* kMethod = "Forward";
constexpr const char* kNamespaceKey = "containerd-namespace-ttrpc";
constexpr std::string_view kOomTopic = "/tasks/oom";
// What a ttrpc message holds beside the event: names of service and method, the namespace as metadata (containerd: 76 bytes), tags.
constexpr size_t kMessageOverhead = 1024;

std::string SocketPathOf(const std::string& address) {
  constexpr std::string_view kScheme = "unix://";
  return address.starts_with(kScheme) ? address.substr(kScheme.size()) : address;
}

}  // namespace

Publisher::Publisher(PublisherOptions options) : options_(std::move(options)) {
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "events");
    Run();
    client_.reset();  // no answer comes once we are gone
  });
}

Publisher::~Publisher() {
  {
    const std::lock_guard lock(mu_);
    stop_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

void Publisher::Publish(std::string_view topic, std::string_view type, std::string event) {
  containerd::events::ForwardRequest request;
  auto& envelope = *request.mutable_envelope();
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now);
  envelope.mutable_timestamp()->set_seconds(seconds.count());
  envelope.mutable_timestamp()->set_nanos(
      static_cast<int32_t>(std::chrono::nanoseconds(now - seconds).count()));
  envelope.set_namespace_(options_.ns);
  envelope.set_topic(std::string(topic));
  envelope.mutable_event()->set_type_url(std::string(type));
  envelope.mutable_event()->set_value(std::move(event));

  if (options_.address.empty()) {
    return;
  }
  Item item{std::string(topic), request.SerializeAsString()};
  if (item.request.size() > ttrpc::kMaxData - kMessageOverhead) {
    WV_WARN_LIMITED("event {} of {} bytes: longer than a ttrpc message may be, dropped", topic,
                    item.request.size());
    return;
  }
  const std::lock_guard lock(mu_);
  if (queue_.size() >= options_.max_queued) {
    const bool room = DropOldestOom();
    if (room || topic == kOomTopic) {
      ++dropped_;
      WV_WARN_LIMITED("containerd takes no events: {} of {} dropped", dropped_, kOomTopic);
    }
    if (!room && topic == kOomTopic) {
      return;
    }
  }
  queue_.push_back(std::move(item));
  changed_.notify_all();
}

bool Publisher::DropOldestOom() {
  // Not the front: its call may be in flight.
  const auto oldest = queue_.empty()
                          ? queue_.end()
                          : std::find_if(queue_.begin() + 1, queue_.end(),
                                         [](const Item& item) { return item.topic == kOomTopic; });
  if (oldest == queue_.end()) {
    return false;
  }
  queue_.erase(oldest);
  return true;
}

bool Publisher::Flush(std::chrono::milliseconds patience) {
  std::unique_lock lock(mu_);
  return changed_.wait_for(lock, patience, [this] { return queue_.empty(); });
}

void Publisher::Sleep(std::unique_lock<std::mutex>& lock, std::chrono::milliseconds time) {
  changed_.wait_for(lock, time, [this] { return stop_; });
}

void Publisher::Run() {
  std::chrono::milliseconds backoff = options_.first_backoff;
  std::unique_lock lock(mu_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (stop_) {
      return;
    }
    const Item item = queue_.front();
    lock.unlock();
    const Outcome outcome = Send(item);
    lock.lock();
    const auto now = std::chrono::steady_clock::now();
    if (outcome == Outcome::kRefused && queue_.front().give_up == decltype(now){}) {
      queue_.front().give_up = now + options_.refusal_patience;
    }
    if (outcome == Outcome::kDelivered || outcome == Outcome::kInvalid ||
        (outcome == Outcome::kRefused && now >= queue_.front().give_up)) {
      queue_.pop_front();
      backoff = options_.first_backoff;
      changed_.notify_all();
      continue;
    }
    Sleep(lock, backoff);
    backoff = std::min(backoff * 2, options_.max_backoff);
  }
}

Result<> Publisher::Connect() {
  if (client_ != nullptr && !client_->closed()) {
    return {};
  }
  client_.reset();
  WV_TRY(UniqueFd socket, ConnectUnix(SocketPathOf(options_.address)));
  WV_TRY(client_, ttrpc::Client::Create(std::move(socket), {.name = "events-rx"}));
  return {};
}

Result<> Publisher::Forward(const Item& item) {
  struct Answer {
    std::optional<Result<std::string>> result;  // guarded by mu_
  };

  auto answer = std::make_shared<Answer>();
  client_->RawCallAsync(
      kService, kMethod, item.request,
      {.timeout = options_.answer_patience, .metadata = {{kNamespaceKey, options_.ns}}},
      [this, answer](Result<std::string> result) {
        const std::lock_guard lock(mu_);
        answer->result.emplace(std::move(result));
        changed_.notify_all();
      });
  const auto answered = [&] { return stop_ || answer->result.has_value(); };
  std::unique_lock lock(mu_);
  if (!changed_.wait_for(lock, options_.slow_answer, answered)) {
    WV_WARN_LIMITED("event {}: containerd has not answered for {} ms", item.topic,
                    options_.slow_answer.count());
    changed_.wait(lock, answered);
  }
  std::optional<Result<std::string>>& result = answer->result;
  if (!result.has_value()) {
    return Fail(Code::kUnavailable, "the publisher ends");
  }
  if (!*result) {
    return tl::unexpected(std::move(*result).error());
  }
  return {};
}

Publisher::Outcome Publisher::Send(const Item& item) {
  if (auto connected = Connect(); !connected) {
    WV_WARN_LIMITED("events: {}", connected.error().message());
    return Outcome::kUnreachable;
  }
  const auto answer = Forward(item);
  if (answer) {
    return Outcome::kDelivered;
  }
  WV_WARN_LIMITED("event {} not delivered: {}", item.topic, answer.error().message());
  switch (answer.error().code()) {
    case Code::kInvalidArgument:
      return Outcome::kInvalid;
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
      client_.reset();
      return Outcome::kUnreachable;
    default:
      return client_->closed() ? Outcome::kUnreachable : Outcome::kRefused;
  }
}

}  // namespace wyvern::shim
