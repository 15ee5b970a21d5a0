// ttrpc/server_connection.h — one client of a Server. Internal.
// Threads: created, fed and ended on the loop's thread; the CallSink part may be called from any thread, also after the end.
// Invariants: a stream id is in calls_ from its request to its answer, so each gets exactly one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>

#include "base/event_loop.h"
#include "ttrpc/call.h"
#include "ttrpc/frame.h"
#include "ttrpc/send_queue.h"
#include "ttrpc/server.h"

namespace wyvern::ttrpc {

// One of the three is set.
struct Method {
  Server::RawUnaryHandler unary;
  Server::RawStreamHandler stream;
  Server::RawBidiHandler bidi;
};

// "service" → "method" → handler
using MethodTable = std::map<std::string, std::map<std::string, Method>>;

class ServerConnection final : public CallSink,
                               public std::enable_shared_from_this<ServerConnection> {
 public:
  // `methods` and `options` outlive the registration with the loop.
  ServerConnection(EventLoop& loop, UniqueFd fd, const MethodTable& methods,
                   const ServerOptions& options);
  ~ServerConnection() override = default;
  ServerConnection(const ServerConnection&) = delete;
  ServerConnection& operator=(const ServerConnection&) = delete;

  // Starts reading. `on_end` is called once, on the loop's thread, when the client is gone.
  Result<> Start(std::function<void()> on_end);
  // Ends it without calling on_end.
  void Detach();

  void SendResponse(uint32_t stream_id, Result<std::string> payload) override;
  Result<> SendData(uint32_t stream_id, std::string_view payload) override;
  void EndStream(uint32_t stream_id) override;
  bool alive() const override;

 private:
  void OnIo(uint32_t events);
  void ReadAvailable();
  void End();
  void WriteAvailable();
  void OnFrame(const FrameHeader& header, std::string data);
  void OnOversize(const FrameHeader& header);
  void OnRequest(const FrameHeader& header, const std::string& data);
  void OnData(const FrameHeader& header, std::string data);
  void Dispatch(uint32_t stream_id, const Method& method, std::string payload,
                const CallContext& context, bool remote_closed);
  // An answer to what is no call.
  void Refuse(uint32_t stream_id, Code code, std::string text);
  void EnqueueLocked(std::string frame);
  void BreakLocked(const std::string& why);

  const MethodTable& methods_;
  const ServerOptions& options_;
  FrameParser parser_;
  uint32_t last_stream_id_ = 0;
  std::map<uint32_t, RawStream::Receiver> receivers_;
  std::function<void()> on_end_;
  EventLoop::Token token_ = EventLoop::Token::kNone;
  bool ended_ = false;

  mutable std::mutex mu_;  // guards what follows; no callback is made under it
  EventLoop* loop_;        // null after the end
  UniqueFd fd_;
  SendQueue queue_;
  std::set<uint32_t> calls_;
  bool broken_ = false;      // nothing is sent any more
  bool want_write_ = false;  // EPOLLOUT is armed or about to be
};

}  // namespace wyvern::ttrpc
