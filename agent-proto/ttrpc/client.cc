#include "ttrpc/client.h"

#include <condition_variable>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "ttrpc/client_connection.h"

namespace wyvern::ttrpc {
namespace {

// Where a blocking call waits.
struct Waiter {
  std::mutex mu;
  std::condition_variable done;
  std::optional<Result<std::string>> result;
};

}  // namespace

RawClientStream::RawClientStream(std::shared_ptr<State> state) : state_(std::move(state)) {}

RawClientStream::~RawClientStream() {
  if (state_) {
    if (auto connection = state_->connection.lock()) {
      connection->Forget(state_->id);
    }
  }
}

RawClientStream::RawClientStream(RawClientStream&&) noexcept = default;

RawClientStream& RawClientStream::operator=(RawClientStream&& other) noexcept {
  RawClientStream old(std::exchange(state_, std::move(other.state_)));
  return *this;
}

Result<std::optional<std::string>> RawClientStream::Read(std::chrono::milliseconds timeout) {
  WV_CHECK(state_ != nullptr);
  std::unique_lock lock(state_->mu);
  const auto ready = [this] { return !state_->messages.empty() || state_->ended; };
  if (timeout.count() == 0) {
    state_->changed.wait(lock, ready);
  } else if (!state_->changed.wait_for(lock, timeout, ready)) {
    return Fail(Code::kDeadlineExceeded, "no message in the ttrpc stream");
  }
  if (!state_->messages.empty()) {
    std::string message = std::move(state_->messages.front());
    state_->messages.pop_front();
    state_->bytes -= message.size();
    return std::optional<std::string>(std::move(message));
  }
  if (const std::optional<Error>& error = state_->error; error.has_value()) {
    return Fail(error->code(), error->message());
  }
  return std::optional<std::string>();
}

Result<> RawClientStream::Send(std::string_view payload) {
  WV_CHECK(state_ != nullptr);
  const auto connection = state_->connection.lock();
  if (!connection) {
    return Fail(Code::kUnavailable, "the ttrpc connection is closed");
  }
  return connection->SendData(state_->id, 0, payload);
}

Result<> RawClientStream::CloseSend() {
  WV_CHECK(state_ != nullptr);
  const auto connection = state_->connection.lock();
  if (!connection) {
    return Fail(Code::kUnavailable, "the ttrpc connection is closed");
  }
  return connection->SendData(state_->id, kFlagRemoteClosed | kFlagNoData, {});
}

Result<std::unique_ptr<Client>> Client::Create(UniqueFd connection, ClientOptions options) {
  WV_TRY(EventFd wake, EventFd::Create());
  auto shared = std::make_shared<ClientConnection>(std::move(connection), std::move(wake),
                                                   std::move(options));
  shared->Start();
  return std::unique_ptr<Client>(new Client(std::move(shared)));
}

Client::Client(std::shared_ptr<ClientConnection> connection) : connection_(std::move(connection)) {}

Client::~Client() {
  CloseAndWait();
}

Result<std::string> Client::RawCall(const std::string& service, const std::string& method,
                                    std::string payload, const CallOptions& options) {
  WV_CHECK(!connection_->OnReaderThread());
  auto waiter = std::make_shared<Waiter>();
  RawCallAsync(service, method, std::move(payload), options, [waiter](Result<std::string> result) {
    const std::lock_guard lock(waiter->mu);
    waiter->result.emplace(std::move(result));
    waiter->done.notify_all();
  });
  std::unique_lock lock(waiter->mu);
  std::optional<Result<std::string>>& result = waiter->result;
  waiter->done.wait(lock, [&result] { return result.has_value(); });
  WV_CHECK(result.has_value());
  return *std::move(result);
}

void Client::RawCallAsync(const std::string& service, const std::string& method,
                          std::string payload, const CallOptions& options, RawCallback done) {
  ClientConnection::Pending pending{.done = std::move(done), .stream = nullptr, .deadline = {}};
  auto begun = connection_->Begin(service, method, std::move(payload), 0, options, pending);
  if (!begun) {
    pending.done(tl::unexpected(std::move(begun).error()));
  }
}

Result<RawClientStream> Client::OpenRawStream(const std::string& service, const std::string& method,
                                              std::string payload, bool bidirectional,
                                              const CallOptions& options) {
  auto state = std::make_shared<RawClientStream::State>();
  state->connection = connection_;
  state->max_messages = connection_->options().max_stream_messages;
  state->max_bytes = connection_->options().max_stream_bytes;
  ClientConnection::Pending pending{.done = nullptr, .stream = state, .deadline = {}};
  WV_TRY([[maybe_unused]] const uint32_t id,
         connection_->Begin(service, method, bidirectional ? std::string() : std::move(payload),
                            bidirectional ? kFlagRemoteOpen : kFlagRemoteClosed, options, pending));
  return RawClientStream(std::move(state));
}

void Client::Close() {
  connection_->Close();
}

void Client::CloseAndWait() {
  WV_CHECK(!connection_->OnReaderThread());
  connection_->Close();
  connection_->Join();
}

bool Client::closed() const {
  return connection_->closed();
}

}  // namespace wyvern::ttrpc
