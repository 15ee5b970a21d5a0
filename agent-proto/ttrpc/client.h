// ttrpc/client.h — calls a ttrpc server over one connection, from any number of threads.
// Spec:    containerd/ttrpc PROTOCOL.md.
// Shape:   WV_TRY(auto client, Client::Create(std::move(socket))); client->Call<Req,
// Resp>("pkg.Service", "Method", request, {.timeout = 2s}); Errors:  the server's status with its
// code; DEADLINE_EXCEEDED; UNAVAILABLE when the connection is gone (also for calls in flight);
//          DATA_LOSS for an answer that does not parse.
// Threads: a thread of its own reads (and sends what the socket did not take at once): a caller
// never blocks in a write, a server
//          that does not read costs a bounded queue. Call blocks its caller; callbacks run on the
//          reader thread and must not block there nor make a blocking Call nor destroy the client.
// Trust:   answers may come from an untrusted guest: at most 4 MiB each, unknown ones are ignored,
// anything else ends the connection.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/fd.h"
#include "ttrpc/call.h"

namespace wyvern::ttrpc {

class ClientConnection;

struct ClientOptions {
  std::string name = "ttrpc";           // thread name (at most 15 bytes) and log lines
  size_t max_unsent_bytes = 32U << 20;  // more: calls fail with RESOURCE_EXHAUSTED
  size_t max_stream_messages =
      4096;  // unread ones of a stream; more end the stream with RESOURCE_EXHAUSTED
  size_t max_stream_bytes = 64U << 20;  // of unread messages, likewise; one message always fits
  // Called once, on the reader thread, when the connection ends by itself (not by Close or the
  // destructor).
  std::function<void()> on_close{};
  // First thing on the reader thread.
  std::function<void()> on_thread_start{};
};

struct CallOptions {
  std::chrono::milliseconds timeout{0};  // 0: none. Also told to the server
  Metadata metadata{};
};

// The client's end of a stream of messages from the server. Move-only; dropping it forgets the
// stream.
class RawClientStream {
 public:
  RawClientStream() = default;
  ~RawClientStream();
  RawClientStream(RawClientStream&&) noexcept;
  RawClientStream& operator=(RawClientStream&&) noexcept;
  RawClientStream(const RawClientStream&) = delete;
  RawClientStream& operator=(const RawClientStream&) = delete;

  // The next message; nullopt at the end of the stream. Blocks up to `timeout` (0: for ever): then
  // DEADLINE_EXCEEDED, and the stream goes on. One reading thread at a time.
  Result<std::optional<std::string>> Read(std::chrono::milliseconds timeout = {});
  // Bidirectional streams only.
  Result<> Send(std::string_view payload);
  Result<> CloseSend();

 private:
  friend class Client;
  friend class ClientConnection;
  struct State;
  explicit RawClientStream(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

template <typename In>
class ClientStream {
 public:
  explicit ClientStream(RawClientStream raw) : raw_(std::move(raw)) {}

  Result<std::optional<In>> Read(std::chrono::milliseconds timeout = {}) {
    WV_TRY(std::optional<std::string> payload, raw_.Read(timeout));
    if (!payload) {
      return std::optional<In>();
    }
    In message;
    if (!message.ParseFromString(*payload)) {
      return Fail(Code::kDataLoss, "malformed message in a ttrpc stream");
    }
    return std::optional<In>(std::move(message));
  }

 private:
  RawClientStream raw_;
};

class Client {
 public:
  using RawCallback = std::function<void(Result<std::string>)>;

  // Takes a connected stream socket (unix or vsock).
  static Result<std::unique_ptr<Client>> Create(UniqueFd connection, ClientOptions options = {});
  // Ends the connection; calls in flight fail with UNAVAILABLE. Not from the reader thread.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  template <typename Req, typename Resp>
  Result<Resp> Call(const std::string& service, const std::string& method, const Req& request,
                    const CallOptions& options = {}) {
    WV_TRY(std::string payload, RawCall(service, method, request.SerializeAsString(), options));
    return Parse<Resp>(payload);
  }

  // `done` is called exactly once: on the reader thread, or here when the call could not even be
  // queued.
  template <typename Req, typename Resp>
  void CallAsync(const std::string& service, const std::string& method, const Req& request,
                 const CallOptions& options, std::function<void(Result<Resp>)> done) {
    RawCallAsync(service, method, request.SerializeAsString(), options,
                 [done = std::move(done)](Result<std::string> payload) {
                   if (!payload) {
                     done(tl::unexpected(std::move(payload).error()));
                     return;
                   }
                   done(Parse<Resp>(*payload));
                 });
  }

  // One request, a stream of answers.
  template <typename Req, typename In>
  Result<ClientStream<In>> OpenStream(const std::string& service, const std::string& method,
                                      const Req& request, const CallOptions& options = {}) {
    WV_TRY(RawClientStream raw,
           OpenRawStream(service, method, request.SerializeAsString(), false, options));
    return ClientStream<In>(std::move(raw));
  }

  Result<std::string> RawCall(const std::string& service, const std::string& method,
                              std::string payload, const CallOptions& options);
  void RawCallAsync(const std::string& service, const std::string& method, std::string payload,
                    const CallOptions& options, RawCallback done);
  // `bidirectional`: Send may be used; the payload is then not sent, as the protocol wants.
  Result<RawClientStream> OpenRawStream(const std::string& service, const std::string& method,
                                        std::string payload, bool bidirectional,
                                        const CallOptions& options);

  // Ends the connection now; any thread; idempotent. A callback may still be running.
  void Close();
  // The same; no callback runs or comes after it returned. Not from the reader thread.
  void CloseAndWait();
  // True when the connection is gone.
  bool closed() const;

 private:
  explicit Client(std::shared_ptr<ClientConnection> connection);

  template <typename Resp>
  static Result<Resp> Parse(const std::string& payload) {
    Resp response;
    if (!response.ParseFromString(payload)) {
      return Fail(Code::kDataLoss, "malformed ttrpc answer");
    }
    return response;
  }

  std::shared_ptr<ClientConnection> connection_;
};

}  // namespace wyvern::ttrpc
