// control/exec_stream.h — the stdio of one control exec on one bidirectional ttrpc stream.
// Flow:    output waits in the sandbox's sockets until a client attaches. A client whose first message says stream = 1 acknowledges every output
//          message with an empty one of the same stream number: at most kWindow are then on their way, and a slow client slows the process
//          down, nothing else. It gets the same for its input: an empty message of stream 0 for each of its messages that the process has taken,
//          and keeps at most kWindow on their way. A client that does not acknowledge is cut off when too much waits for it.
// Threads: the loop's.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/event_loop.h"
#include "proto/control.pb.h"
#include "sandbox/sandbox.h"
#include "ttrpc/call.h"

namespace wyvern::shim {

class ExecStream : public std::enable_shared_from_this<ExecStream> {
 public:
  static constexpr size_t kChunk = 32 << 10;
  static constexpr int kWindow = 32;
  static constexpr size_t kMaxPendingInput = 4 << 20;

  ExecStream(EventLoop& loop, runtime::ProcessIo io, bool acknowledged, ttrpc::RawStream stream);

  void Start();
  void OnMessage(const wyvern::control::v1::StreamData& message);
  // The client is gone: the process sees the end of its input; its output is dropped from now on.
  void Detach();

  // All output has been sent: a client that goes now has had everything.
  bool finished() const { return finished_; }

 private:
  struct Output {
    uint32_t number;
    UniqueFd fd;
    EventLoop::Token token = EventLoop::Token::kNone;
    int unacknowledged = 0;
  };

  void ReadOutput(Output& output);
  void EndOutput(Output& output);
  void WriteInput();
  void CloseInput();

  EventLoop& loop_;
  const bool acknowledged_;
  bool detached_ = false;
  bool finished_ = false;
  ttrpc::RawStream stream_;
  std::array<Output, 2> outputs_;
  UniqueFd input_;
  EventLoop::Token input_token_ = EventLoop::Token::kNone;
  std::string pending_input_;
  int untold_input_ = 0;  // input messages whose acknowledgement is due
  bool input_ended_ = false;
};

}  // namespace wyvern::shim
