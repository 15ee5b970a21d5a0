// ttrpc/server.h — serves ttrpc on an event loop: any number of connections, any number of calls in
// flight on each. Spec:    containerd/ttrpc PROTOCOL.md. Shape:   server->RegisterUnary<Req,
// Resp>("pkg.Service", "Method", [](Req, const CallContext&, Responder<Resp>) {…});
//          server->Listen(std::move(listening_socket)); loop->Run();
// Errors:  of clients: answered by the protocol; a client that does not read its answers, or breaks
// off, loses its connection. Threads: Register*, Listen, Adopt and the destructor on the loop's
// thread (or while it does not run); handlers run on the loop's
//          thread and must not block (see blocking.h for those that do). Responders work from any
//          thread.
// Ownership: the loop outlives the server.   Trust: clients are not trusted beyond what the accept
// filter asks.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/event_loop.h"
#include "base/fd.h"
#include "ttrpc/call.h"

namespace wyvern::ttrpc {

struct ServerOptions {
  std::string name = "ttrpc";               // in log lines
  size_t max_connections = 4096;            // further ones are closed at once
  size_t max_calls_per_connection = 16384;  // further ones are answered RESOURCE_EXHAUSTED
  size_t max_unsent_bytes =
      32U << 20;  // answers waiting for a client that does not read; then it is cut off
  // Called on the loop's thread after a connection has ended; `remaining` connections are left.
  std::function<void(size_t remaining)> on_disconnect{};
};

// Looks at an accepted connection; false closes it (with one rate-limited log line).
using AcceptFilter = std::function<bool(FdRef connection)>;

// vsock: the peer's CID is VMADDR_CID_HOST. A unix socket passes never.
bool PeerIsVsockHost(FdRef connection);
// unix socket: the peer's uid is 0 (or our own).
bool PeerIsRootOrSelf(FdRef connection);

class Server {
 public:
  template <typename Req, typename Resp>
  using UnaryHandler = std::function<void(Req, const CallContext&, Responder<Resp>)>;
  template <typename Req, typename Out>
  using StreamHandler = std::function<void(Req, const CallContext&, ServerStream<Out>)>;
  using RawUnaryHandler = std::function<void(std::string, const CallContext&, RawResponder)>;
  using RawStreamHandler = std::function<void(std::string, const CallContext&, RawStream)>;
  // Returns where the client's messages go.
  using RawBidiHandler = std::function<RawStream::Receiver(const CallContext&, RawStream)>;

  static Result<std::unique_ptr<Server>> Create(EventLoop& loop, ServerOptions options = {});
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // `service` is the full name: "containerd.task.v2.Task". A request that does not parse is
  // answered INVALID_ARGUMENT. Preconditions: the pair is not registered yet.
  template <typename Req, typename Resp>
  void RegisterUnary(const std::string& service, const std::string& method,
                     UnaryHandler<Req, Resp> handler) {
    RegisterRawUnary(service, method,
                     [handler = std::move(handler)](std::string payload, const CallContext& context,
                                                    RawResponder responder) {
                       Req request;
                       if (!request.ParseFromString(payload)) {
                         responder.Answer(Fail(Code::kInvalidArgument, "malformed request"));
                         return;
                       }
                       handler(std::move(request), context, Responder<Resp>(std::move(responder)));
                     });
  }

  // One request, a stream of answers.
  template <typename Req, typename Out>
  void RegisterServerStream(const std::string& service, const std::string& method,
                            StreamHandler<Req, Out> handler) {
    RegisterRawStream(service, method,
                      [handler = std::move(handler)](std::string payload,
                                                     const CallContext& context, RawStream stream) {
                        Req request;
                        if (!request.ParseFromString(payload)) {
                          stream.Fail(Error(Code::kInvalidArgument, "malformed request"));
                          return;
                        }
                        handler(std::move(request), context, ServerStream<Out>(std::move(stream)));
                      });
  }

  void RegisterRawUnary(std::string service, std::string method, RawUnaryHandler handler);
  void RegisterRawStream(std::string service, std::string method, RawStreamHandler handler);
  void RegisterRawBidi(std::string service, std::string method, RawBidiHandler handler);

  // Serves what connects to a listening stream socket (unix or vsock). May be called several times.
  Result<> Listen(UniqueFd listener, AcceptFilter filter = nullptr);
  // Serves a connection that exists already.
  Result<> Adopt(UniqueFd connection);

  // Stops accepting; connections go on.
  void CloseListeners();

  size_t connection_count() const;

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace wyvern::ttrpc
