#include "ttrpc/server_connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "base/utf8.h"
#include "ttrpc_wire.pb.h"

namespace wyvern::ttrpc {
namespace {

// Reads before other connections get their turn.
constexpr int kReadsPerEvent = 16;
// A client's deadline beyond this is none; also keeps the clock's arithmetic from overflowing.
constexpr std::chrono::nanoseconds kLongestTimeout = std::chrono::hours(24 * 365);

std::string EncodeResponse(uint32_t stream_id, Result<std::string> payload) {
  wire::Response response;
  if (payload) {
    response.set_payload(*std::move(payload));
  } else {
    response.mutable_status()->set_code(static_cast<int32_t>(payload.error().code()));
    // It may hold what a hook or the guest printed, or a file's name. A proto3 string is UTF-8, and who receives another loses all of
    // the message.
    response.mutable_status()->set_message(ToUtf8(payload.error().message()));
  }
  if (response.ByteSizeLong() > kMaxData) {
    response.clear_payload();
    response.mutable_status()->set_code(static_cast<int32_t>(Code::kResourceExhausted));
    response.mutable_status()->set_message("the answer is longer than a ttrpc message may be");
  }
  return EncodeFrame(stream_id, FrameType::kResponse, 0, response.SerializeAsString());
}

CallContext ContextOf(wire::Request& request, std::weak_ptr<const CallSink> connection) {
  CallContext context{.service = std::move(*request.mutable_service()),
                      .method = std::move(*request.mutable_method()),
                      .metadata = {},
                      .deadline = {},
                      .connection = std::move(connection)};
  for (wire::KeyValue& pair : *request.mutable_metadata()) {
    context.metadata.emplace_back(std::move(*pair.mutable_key()), std::move(*pair.mutable_value()));
  }
  const std::chrono::nanoseconds timeout(request.timeout_nano());
  if (timeout.count() > 0 && timeout < kLongestTimeout) {
    context.deadline = std::chrono::steady_clock::now() + timeout;
  }
  return context;
}

}  // namespace

ServerConnection::ServerConnection(EventLoop& loop, UniqueFd fd, const MethodTable& methods,
                                   const ServerOptions& options)
    : methods_(methods),
      options_(options),
      parser_({.on_frame = [this](const FrameHeader& header,
                                  std::string data) { OnFrame(header, std::move(data)); },
               .on_oversize = [this](const FrameHeader& header) { OnOversize(header); }}),
      loop_(&loop),
      fd_(std::move(fd)) {}

Result<> ServerConnection::Start(std::function<void()> on_end) {
  on_end_ = std::move(on_end);
  // The loop holds a weak reference: the server owns the connection.
  WV_TRY(token_, loop_->Add(fd_, EPOLLIN, [weak = weak_from_this()](uint32_t events) {
    if (auto self = weak.lock()) {
      self->OnIo(events);
    }
  }));
  return {};
}

void ServerConnection::Detach() {
  if (std::exchange(ended_, true)) {
    return;
  }
  {
    const std::lock_guard lock(mu_);
    loop_->Remove(token_);
    loop_ = nullptr;
    broken_ = true;
    queue_.Clear();
    calls_.clear();
    fd_.Reset();
  }
  for (auto& [id, receiver] : std::exchange(receivers_, {})) {
    receiver(std::nullopt);
  }
}

void ServerConnection::OnIo(uint32_t events) {
  if (ended_) {
    return;
  }
  if ((events & EPOLLOUT) != 0) {
    WriteAvailable();
  }
  if ((events & ~static_cast<uint32_t>(EPOLLOUT)) != 0) {
    ReadAvailable();
  }
}

void ServerConnection::ReadAvailable() {
  std::array<std::byte, kReadSize> buffer;
  for (int i = 0; i < kReadsPerEvent; ++i) {
    const ssize_t count = recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (count > 0) {
      parser_.Feed(std::span(buffer).first(static_cast<size_t>(count)));
      if (!alive()) {
        break;  // cut off meanwhile: what it sent further is not served
      }
      continue;
    }
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return;
    }
    if (!parser_.AtFrameBoundary()) {
      WV_WARN_LIMITED("{}: a client broke off within a frame", options_.name);
    }
    End();
    return;
  }
  if (!alive()) {
    End();
  }
}

void ServerConnection::End() {
  Detach();
  // Last: the server drops its reference here.
  if (on_end_) {
    std::exchange(on_end_, nullptr)();
  }
}

void ServerConnection::WriteAvailable() {
  const std::lock_guard lock(mu_);
  if (broken_) {
    return;
  }
  auto flushed = queue_.Flush(fd_);
  if (!flushed) {
    BreakLocked(flushed.error().message());
    return;
  }
  if (*flushed) {
    want_write_ = false;
    if (auto modified = loop_->Modify(token_, EPOLLIN); !modified) {
      BreakLocked(modified.error().message());
    }
  }
}

void ServerConnection::OnFrame(const FrameHeader& header, std::string data) {
  switch (static_cast<FrameType>(header.type)) {
    case FrameType::kRequest:
      OnRequest(header, data);
      break;
    case FrameType::kData:
      OnData(header, std::move(data));
      break;
    case FrameType::kResponse:
    default:
      break;  // unknown types are ignored, and a client has nothing to respond to
  }
}

void ServerConnection::OnOversize(const FrameHeader& header) {
  WV_WARN_LIMITED("{}: a client sent a message of {} bytes; {} are allowed", options_.name,
                  header.length, kMaxData);
  if (header.type == static_cast<uint8_t>(FrameType::kRequest) &&
      header.stream_id > last_stream_id_) {
    last_stream_id_ = header.stream_id;
  }
  // A live stream ends by this.
  receivers_.erase(header.stream_id);
  {
    const std::lock_guard lock(mu_);
    calls_.erase(header.stream_id);
  }
  Refuse(header.stream_id, Code::kResourceExhausted,
         fmt::format("message of {} bytes: at most {} are allowed", header.length, kMaxData));
}

void ServerConnection::OnRequest(const FrameHeader& header, const std::string& data) {
  const uint32_t id = header.stream_id;
  if (id % 2 == 0) {
    Refuse(id, Code::kInvalidArgument, "stream ids of clients are odd");
    return;
  }
  if (id <= last_stream_id_) {
    Refuse(id, Code::kInvalidArgument, "stream ids increase and are used once");
    return;
  }
  last_stream_id_ = id;
  wire::Request request;
  if (!request.ParseFromString(data)) {
    Refuse(id, Code::kInvalidArgument, "malformed ttrpc request");
    return;
  }
  const auto service = methods_.find(request.service());
  if (service == methods_.end()) {
    Refuse(id, Code::kUnimplemented, "unknown service " + request.service());
    return;
  }
  const auto method = service->second.find(request.method());
  if (method == service->second.end()) {
    Refuse(id, Code::kUnimplemented,
           "unknown method " + request.method() + " of " + request.service());
    return;
  }
  bool full = false;
  {
    const std::lock_guard lock(mu_);
    full = calls_.size() >= options_.max_calls_per_connection;
    if (!full) {
      calls_.insert(id);
    }
  }
  if (full) {
    Refuse(id, Code::kResourceExhausted, "too many calls in flight on this connection");
    return;
  }
  std::string payload = std::move(*request.mutable_payload());
  Dispatch(id, method->second, std::move(payload), ContextOf(request, weak_from_this()),
           (header.flags & kFlagRemoteClosed) != 0);
}

void ServerConnection::Dispatch(uint32_t stream_id, const Method& method, std::string payload,
                                const CallContext& context, bool remote_closed) {
  const auto self = shared_from_this();
  if (method.unary) {
    method.unary(std::move(payload), context, RawResponder(self, stream_id));
  } else if (method.stream) {
    method.stream(std::move(payload), context, RawStream(self, stream_id));
  } else {
    auto receiver = method.bidi(context, RawStream(self, stream_id));
    if (!receiver) {
      return;
    }
    // Some clients put the first message into the request.
    if (!payload.empty()) {
      receiver(std::move(payload));
    }
    if (remote_closed) {
      receiver(std::nullopt);
    } else if (!ended_) {
      receivers_[stream_id] = std::move(receiver);
    }
  }
}

void ServerConnection::OnData(const FrameHeader& header, std::string data) {
  const auto it = receivers_.find(header.stream_id);
  bool open = it != receivers_.end();
  if (open) {
    const std::lock_guard lock(mu_);
    open = calls_.contains(header.stream_id);
  }
  if (!open) {
    receivers_.erase(header.stream_id);
    Refuse(header.stream_id, Code::kInvalidArgument, "data on a stream that takes none");
    return;
  }
  // Out of the map while it runs: it may end the connection.
  RawStream::Receiver receiver = std::move(it->second);
  receivers_.erase(it);
  if ((header.flags & kFlagNoData) == 0) {
    receiver(std::move(data));
  }
  if ((header.flags & kFlagRemoteClosed) != 0) {
    receiver(std::nullopt);
  } else if (!ended_) {
    receivers_[header.stream_id] = std::move(receiver);
  }
}

void ServerConnection::Refuse(uint32_t stream_id, Code code, std::string text) {
  std::string frame = EncodeResponse(stream_id, Fail(code, std::move(text)));
  const std::lock_guard lock(mu_);
  EnqueueLocked(std::move(frame));
}

void ServerConnection::SendResponse(uint32_t stream_id, Result<std::string> payload) {
  std::string frame = EncodeResponse(stream_id, std::move(payload));
  const std::lock_guard lock(mu_);
  if (calls_.erase(stream_id) > 0) {
    EnqueueLocked(std::move(frame));
  }
}

Result<> ServerConnection::SendData(uint32_t stream_id, std::string_view payload) {
  if (payload.size() > kMaxData) {
    return Fail(Code::kResourceExhausted, "the message is longer than a ttrpc message may be");
  }
  std::string frame = EncodeFrame(stream_id, FrameType::kData, 0, payload);
  const std::lock_guard lock(mu_);
  if (broken_ || !calls_.contains(stream_id)) {
    return Fail(Code::kUnavailable, "the client of the ttrpc stream is gone");
  }
  EnqueueLocked(std::move(frame));
  return {};
}

void ServerConnection::EndStream(uint32_t stream_id) {
  const std::lock_guard lock(mu_);
  if (calls_.erase(stream_id) > 0) {
    EnqueueLocked(EncodeFrame(stream_id, FrameType::kData, kFlagRemoteClosed | kFlagNoData, {}));
  }
}

bool ServerConnection::alive() const {
  const std::lock_guard lock(mu_);
  return !broken_;
}

void ServerConnection::EnqueueLocked(std::string frame) {
  if (broken_) {
    return;
  }
  const bool was_empty = queue_.empty();
  queue_.Push(std::move(frame));
  if (was_empty) {
    if (auto flushed = queue_.Flush(fd_); !flushed) {
      BreakLocked(flushed.error().message());
      return;
    }
  }
  if (queue_.empty()) {
    return;
  }
  if (queue_.bytes() > options_.max_unsent_bytes) {
    BreakLocked("it does not read its answers");
    return;
  }
  if (!std::exchange(want_write_, true)) {
    loop_->Post([weak = weak_from_this()] {
      auto self = weak.lock();
      if (!self || self->ended_) {
        return;
      }
      const std::lock_guard lock(self->mu_);
      if (auto modified = self->loop_->Modify(self->token_, EPOLLIN | EPOLLOUT); !modified) {
        self->BreakLocked(modified.error().message());
      }
    });
  }
}

// The loop sees the end of the socket and cleans up there.
void ServerConnection::BreakLocked(const std::string& why) {
  if (std::exchange(broken_, true)) {
    return;
  }
  WV_WARN_LIMITED("{}: cutting a client off: {}", options_.name, why);
  queue_.Clear();
  (void)shutdown(fd_.get(), SHUT_RDWR);
}

}  // namespace wyvern::ttrpc
