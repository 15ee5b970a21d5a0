#include "ttrpc/client_connection.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/log.h"
#include "ttrpc_wire.pb.h"

namespace wyvern::ttrpc {
namespace {

// Error texts come from a peer that may be hostile, and end up in logs and messages.
constexpr size_t kMaxErrorText = 64U << 10;

Error StatusError(const wire::Status& status) {
  Code code = Code::kUnknown;
  if (status.code() >= static_cast<int32_t>(Code::kCancelled) &&
      status.code() <= static_cast<int32_t>(Code::kUnauthenticated)) {
    code = static_cast<Code>(status.code());
  }
  return Error(code, status.message().substr(0, kMaxErrorText));
}

Result<std::string> ParseResponse(const std::string& data) {
  wire::Response response;
  if (!response.ParseFromString(data)) {
    return Fail(Code::kDataLoss, "malformed ttrpc response");
  }
  if (response.has_status() && response.status().code() != 0) {
    return tl::unexpected(StatusError(response.status()));
  }
  return std::move(*response.mutable_payload());
}

Error Gone() {
  return Error(Code::kUnavailable, "the ttrpc connection is closed");
}

}  // namespace

bool RawClientStream::State::Push(std::string message) {
  const std::lock_guard lock(mu);
  if (ended) {
    return true;
  }
  if (messages.size() >= max_messages ||
      (!messages.empty() && message.size() > max_bytes - std::min(bytes, max_bytes))) {
    ended = true;
    error.emplace(Code::kResourceExhausted, "messages of a ttrpc stream were not read in time");
    changed.notify_all();
    return false;
  }
  bytes += message.size();
  messages.push_back(std::move(message));
  changed.notify_all();
  return true;
}

void RawClientStream::State::End(std::optional<Error> why) {
  const std::lock_guard lock(mu);
  if (!ended) {
    ended = true;
    error = std::move(why);
    changed.notify_all();
  }
}

ClientConnection::ClientConnection(UniqueFd fd, EventFd wake, ClientOptions options)
    : options_(std::move(options)),
      fd_(std::move(fd)),
      wake_(std::move(wake)),
      parser_({.on_frame = [this](const FrameHeader& header,
                                  const std::string& data) { OnFrame(header, data); },
               .on_oversize =
                   [this](const FrameHeader& header) {
                     if (auto pending = Take(header.stream_id)) {
                       Finish(*pending,
                              Fail(Code::kResourceExhausted, "the ttrpc answer is too long"));
                     }
                   }}) {}

void ClientConnection::Start() {
  thread_ = std::thread([self = shared_from_this()] {
    self->reader_ = std::this_thread::get_id();
    if (self->options_.on_thread_start) {
      self->options_.on_thread_start();
    }
    self->Loop();
  });
  (void)pthread_setname_np(thread_.native_handle(), options_.name.substr(0, 15).c_str());
}

void ClientConnection::Close() {
  {
    const std::lock_guard lock(mu_);
    closing_ = true;
  }
  (void)shutdown(fd_.get(), SHUT_RDWR);
  wake_.Signal();
}

void ClientConnection::Join() {
  const std::lock_guard lock(join_mu_);
  if (thread_.joinable()) {
    thread_.join();
  }
}

bool ClientConnection::closed() const {
  const std::lock_guard lock(mu_);
  return closing_ || ended_ || broken_;
}

Result<uint32_t> ClientConnection::Begin(const std::string& service, const std::string& method,
                                         std::string payload, uint8_t flags,
                                         const CallOptions& options, Pending& pending) {
  wire::Request request;
  request.set_service(service);
  request.set_method(method);
  request.set_payload(std::move(payload));
  request.set_timeout_nano(std::chrono::nanoseconds(options.timeout).count());
  for (const auto& [key, value] : options.metadata) {
    wire::KeyValue* pair = request.add_metadata();
    pair->set_key(key);
    pair->set_value(value);
  }
  if (request.ByteSizeLong() > kMaxData) {
    return Fail(
        Code::kResourceExhausted,
        fmt::format("{}.{}: the request is longer than a ttrpc message may be", service, method));
  }
  const std::string data = request.SerializeAsString();
  const std::lock_guard lock(mu_);
  if (closing_ || ended_ || broken_ || next_id_ > UINT32_MAX - 2) {
    return tl::unexpected(Gone());
  }
  const uint32_t id = next_id_;
  WV_TRY_VOID(EnqueueLocked(EncodeFrame(id, FrameType::kRequest, flags, data)));
  next_id_ += 2;
  pending.deadline = deadlines_.end();
  if (options.timeout.count() > 0) {
    pending.deadline = deadlines_.emplace(Clock::now() + options.timeout, id);
    if (pending.deadline == deadlines_.begin()) {
      wake_.Signal();
    }
  }
  if (pending.stream) {
    pending.stream->id = id;
  }
  pending_.emplace(id, std::move(pending));
  return id;
}

Result<> ClientConnection::SendData(uint32_t id, uint8_t flags, std::string_view payload) {
  if (payload.size() > kMaxData) {
    return Fail(Code::kResourceExhausted, "the message is longer than a ttrpc message may be");
  }
  std::string frame = EncodeFrame(id, FrameType::kData, flags, payload);
  const std::lock_guard lock(mu_);
  if (closing_ || ended_ || !pending_.contains(id)) {
    return Fail(Code::kUnavailable, "the ttrpc stream has ended");
  }
  return EnqueueLocked(std::move(frame));
}

void ClientConnection::Forget(uint32_t id) {
  (void)Take(id);
}

Result<> ClientConnection::EnqueueLocked(std::string frame) {
  if (queue_.bytes() > options_.max_unsent_bytes) {
    return Fail(Code::kResourceExhausted, "the ttrpc server does not read its requests");
  }
  const bool was_empty = queue_.empty();
  queue_.Push(std::move(frame));
  if (!was_empty) {
    return {};  // the reader thread waits for room already
  }
  auto flushed = queue_.Flush(fd_);
  if (!flushed) {
    broken_ = true;
    queue_.Clear();
    return tl::unexpected(std::move(flushed).error().WithCode(Code::kUnavailable));
  }
  if (!*flushed) {
    wake_.Signal();
  }
  return {};
}

void ClientConnection::Loop() {
  while (true) {
    short events = POLLIN;
    {
      const std::lock_guard lock(mu_);
      if (closing_) {
        break;
      }
      events = static_cast<short>(queue_.empty() ? POLLIN : POLLIN | POLLOUT);
    }
    std::array<pollfd, 2> fds = {{{fd_.get(), events, 0}, {wake_.fd().get(), POLLIN, 0}}};
    if (poll(fds.data(), fds.size(), PollTimeout()) < 0 && errno != EINTR) {
      break;
    }
    if ((fds[1].revents & POLLIN) != 0) {
      (void)wake_.Drain();
    }
    if ((fds[0].revents & POLLOUT) != 0) {
      const std::lock_guard lock(mu_);
      if (!queue_.Flush(fd_)) {
        break;
      }
    }
    if ((fds[0].revents & ~POLLOUT) != 0 && !ReadAvailable()) {
      break;
    }
    ExpireCalls();
  }
  EndAll();
}

int ClientConnection::PollTimeout() const {
  const std::lock_guard lock(mu_);
  if (deadlines_.empty()) {
    return -1;
  }
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadlines_.begin()->first - Clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 3'600'000));
}

bool ClientConnection::ReadAvailable() {
  std::array<std::byte, kReadSize> buffer;
  while (true) {
    const ssize_t count = recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (count > 0) {
      parser_.Feed(std::span(buffer).first(static_cast<size_t>(count)));
      return true;
    }
    if (count < 0 && errno == EINTR) {
      continue;
    }
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  }
}

void ClientConnection::ExpireCalls() {
  while (true) {
    uint32_t id = 0;
    {
      const std::lock_guard lock(mu_);
      if (deadlines_.empty() || deadlines_.begin()->first > Clock::now()) {
        return;
      }
      id = deadlines_.begin()->second;
    }
    if (auto pending = Take(id)) {
      Finish(*pending, Fail(Code::kDeadlineExceeded, "no answer within the deadline"));
    }
  }
}

std::optional<ClientConnection::Pending> ClientConnection::Take(uint32_t id) {
  const std::lock_guard lock(mu_);
  const auto it = pending_.find(id);
  if (it == pending_.end()) {
    return std::nullopt;
  }
  Pending pending = std::move(it->second);
  pending_.erase(it);
  if (pending.deadline != deadlines_.end()) {
    deadlines_.erase(pending.deadline);
  }
  return pending;
}

void ClientConnection::Finish(const Pending& pending, Result<std::string> result) {
  if (pending.done) {
    pending.done(std::move(result));
  } else if (!result) {
    pending.stream->End(std::move(result).error());
  } else {
    // A stream that is answered by a Response: its last message.
    if (!result->empty()) {
      (void)pending.stream->Push(*std::move(result));
    }
    pending.stream->End(std::nullopt);
  }
}

void ClientConnection::OnFrame(const FrameHeader& header, const std::string& data) {
  if (header.type == static_cast<uint8_t>(FrameType::kResponse)) {
    if (auto pending = Take(header.stream_id)) {
      Finish(*pending, ParseResponse(data));
    }
    return;
  }
  if (header.type != static_cast<uint8_t>(FrameType::kData)) {
    return;  // unknown types are ignored, and a server has nothing to request
  }
  std::shared_ptr<RawClientStream::State> stream;
  {
    const std::lock_guard lock(mu_);
    const auto it = pending_.find(header.stream_id);
    if (it != pending_.end()) {
      stream = it->second.stream;
    }
  }
  if (stream) {
    OnStreamFrame(header, data, stream);
  }
}

void ClientConnection::OnStreamFrame(const FrameHeader& header, const std::string& data,
                                     const std::shared_ptr<RawClientStream::State>& stream) {
  if ((header.flags & kFlagNoData) == 0 && !stream->Push(data)) {
    Forget(header.stream_id);
    return;
  }
  if ((header.flags & kFlagRemoteClosed) != 0) {
    Forget(header.stream_id);
    stream->End(std::nullopt);
  }
}

void ClientConnection::EndAll() {
  std::map<uint32_t, Pending> pending;
  bool by_us = false;
  {
    const std::lock_guard lock(mu_);
    ended_ = true;
    by_us = closing_;
    queue_.Clear();
    pending.swap(pending_);
    deadlines_.clear();
  }
  (void)shutdown(fd_.get(), SHUT_RDWR);
  for (const auto& [id, call] : pending) {
    Finish(call, tl::unexpected(Gone()));
  }
  pending.clear();  // what the calls held goes before the owner is told
  if (!by_us && options_.on_close) {
    options_.on_close();
  }
}

}  // namespace wyvern::ttrpc
