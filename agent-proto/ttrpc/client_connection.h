// ttrpc/client_connection.h — what a Client and its streams share. Internal.
// Threads: Start by the owner; the reader thread runs Loop; everything else from any thread, Join from any other.
// Invariants: a call is in pending_ from its request to its end, and whoever takes it out reports the end, once, without the lock.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/event_fd.h"
#include "ttrpc/client.h"
#include "ttrpc/frame.h"
#include "ttrpc/send_queue.h"

namespace wyvern::ttrpc {

class ClientConnection;

struct RawClientStream::State {
  std::weak_ptr<ClientConnection> connection;
  uint32_t id = 0;
  size_t max_messages = 0;
  size_t max_bytes = 0;

  std::mutex mu;  // taken after the connection's, or alone
  std::condition_variable changed;
  std::deque<std::string> messages;
  size_t bytes = 0;  // in messages
  bool ended = false;
  std::optional<Error> error;

  // False: the reader is too slow, the stream has ended now.
  bool Push(std::string message);
  void End(std::optional<Error> why);
};

class ClientConnection final : public std::enable_shared_from_this<ClientConnection> {
 public:
  using Clock = std::chrono::steady_clock;

  // The end of a call: `done` of a unary one or the stream, and when it expires.
  struct Pending {
    Client::RawCallback done;
    std::shared_ptr<RawClientStream::State> stream;
    std::multimap<Clock::time_point, uint32_t>::iterator deadline;
  };

  ClientConnection(UniqueFd fd, EventFd wake, ClientOptions options);
  ~ClientConnection() = default;
  ClientConnection(const ClientConnection&) = delete;
  ClientConnection& operator=(const ClientConnection&) = delete;

  void Start();
  void Close();
  void Join();
  bool closed() const;

  bool OnReaderThread() const { return std::this_thread::get_id() == reader_; }

  const ClientOptions& options() const { return options_; }

  // Sends a request and enters `pending` under its id, in one step; the id is returned.
  Result<uint32_t> Begin(const std::string& service, const std::string& method, std::string payload,
                         uint8_t flags, const CallOptions& options, Pending& pending);
  Result<> SendData(uint32_t id, uint8_t flags, std::string_view payload);
  void Forget(uint32_t id);

 private:
  void Loop();
  int PollTimeout() const;
  // False: the connection has ended.
  bool ReadAvailable();
  void ExpireCalls();
  void OnFrame(const FrameHeader& header, const std::string& data);
  void OnStreamFrame(const FrameHeader& header, const std::string& data,
                     const std::shared_ptr<RawClientStream::State>& stream);
  std::optional<Pending> Take(uint32_t id);
  static void Finish(const Pending& pending, Result<std::string> result);
  Result<> EnqueueLocked(std::string frame);
  void EndAll();

  const ClientOptions options_;
  const UniqueFd fd_;
  const EventFd wake_;
  FrameParser parser_;  // reader thread
  std::mutex join_mu_;
  std::thread thread_;  // joined with join_mu_ held
  std::atomic<std::thread::id> reader_;

  mutable std::mutex mu_;  // guards what follows
  SendQueue queue_;
  uint32_t next_id_ = 1;
  std::map<uint32_t, Pending> pending_;
  std::multimap<Clock::time_point, uint32_t> deadlines_;
  bool closing_ = false;  // by us
  bool broken_ = false;   // a write failed; the reader thread sees the end, too, a little later
  bool ended_ = false;    // by anyone
};

}  // namespace wyvern::ttrpc
