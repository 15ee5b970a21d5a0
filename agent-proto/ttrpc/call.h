// ttrpc/call.h — one call as a handler sees it: context, the answer to give, the stream to feed.
// Ownership: Responder and ServerStream are handles; copies share one call (so that they fit into
// std::function). They may outlive the
//            connection and the server: then what they send goes nowhere.
// Errors:  the first answer counts; a call whose last handle is dropped unanswered is answered
// INTERNAL. Threads: handles may be used from any thread; no call blocks.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace wyvern::ttrpc {

using Metadata = std::vector<std::pair<std::string, std::string>>;

class CallSink;

struct CallContext {
  std::string service;
  std::string method;
  Metadata metadata;
  // When the client gives up, if it said so. The work is the handler's to stop: the client says
  // nothing when it forgets a call.
  std::optional<std::chrono::steady_clock::time_point> deadline;
  std::weak_ptr<const CallSink> connection;  // for connected()

  // False once the connection that the call came by is gone; ServerOptions::on_disconnect comes after
  // that.
  bool connected() const;
  // The first value of `key`, or empty.
  std::string_view MetadataValue(std::string_view key) const;
};

// What a call needs of its connection. Internal.
class CallSink {
 public:
  virtual ~CallSink() = default;
  virtual void SendResponse(uint32_t stream_id, Result<std::string> payload) = 0;
  virtual Result<> SendData(uint32_t stream_id, std::string_view payload) = 0;
  virtual void EndStream(uint32_t stream_id) = 0;
  virtual bool alive() const = 0;
};

class RawResponder {
 public:
  RawResponder() = default;
  RawResponder(std::shared_ptr<CallSink> sink, uint32_t stream_id);

  void Answer(Result<std::string> payload) const;
  // False once nobody waits: the connection is gone or an answer was given.
  bool alive() const;

 private:
  struct Call;
  std::shared_ptr<Call> call_;
};

template <typename Resp>
class Responder {
 public:
  Responder() = default;

  explicit Responder(RawResponder raw) : raw_(std::move(raw)) {}

  void Ok(const Resp& response) const { raw_.Answer(response.SerializeAsString()); }

  void Fail(Error error) const { raw_.Answer(tl::unexpected(std::move(error))); }

  // responder.Answer(DoIt(request)): either of the two.
  void Answer(Result<Resp> result) const {
    if (result) {
      Ok(*result);
    } else {
      Fail(std::move(result).error());
    }
  }

  bool alive() const { return raw_.alive(); }

 private:
  RawResponder raw_;
};

// The server's end of a stream of messages to the client (and from it, for a method registered as
// bidirectional).
class RawStream {
 public:
  // Messages of the client, in order, on the loop's thread; nullopt: the client sends no more (or
  // is gone).
  using Receiver = std::function<void(std::optional<std::string> message)>;

  RawStream() = default;
  RawStream(std::shared_ptr<CallSink> sink, uint32_t stream_id);

  // UNAVAILABLE when the stream has ended or the client is gone.
  Result<> Send(std::string_view payload) const;
  // Ends the stream well.
  void Finish() const;
  // Ends the stream with an error.
  void Fail(Error error) const;
  bool alive() const;

 private:
  struct Call;
  std::shared_ptr<Call> call_;
};

template <typename Out>
class ServerStream {
 public:
  ServerStream() = default;

  explicit ServerStream(RawStream raw) : raw_(std::move(raw)) {}

  Result<> Send(const Out& message) const { return raw_.Send(message.SerializeAsString()); }

  void Finish() const { raw_.Finish(); }

  void Fail(Error error) const { raw_.Fail(std::move(error)); }

  bool alive() const { return raw_.alive(); }

 private:
  RawStream raw_;
};

}  // namespace wyvern::ttrpc
