// agent/process_io.h — the stdio of one process: pipes or a pseudo terminal on its side, streams of the host on the other.
// Life:    Create (tokens are expected from here on) → ChildFds/console_socket for crun → ChildStarted → … → destroyed.
//          Output that has not left yet goes on after the destructor, for a bounded time (OutputPump::EndSoon).
// Threads: the loop's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/pump.h"
#include "agent/stdio.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "proto/agent.pb.h"

namespace wyvern::agent {

class ProcessIo {
 public:
  // `scratch_dir` gets the socket over which crun hands out the terminal; empty: the terminal is made here, and is the child's
  // stdin, stdout and stderr.
  static Result<std::unique_ptr<ProcessIo>> Create(EventLoop& loop, StdioHub& hub,
                                                   const v1::Stdio& stdio,
                                                   const std::string& scratch_dir);
  ~ProcessIo();
  ProcessIo(const ProcessIo&) = delete;
  ProcessIo& operator=(const ProcessIo&) = delete;

  bool terminal() const { return terminal_; }

  // Empty without a terminal of crun's.
  const std::string& console_socket() const { return console_path_; }

  std::vector<std::pair<int, FdRef>> ChildFds() const;
  // The child has its ends: ours of them are closed, and crun's terminal is received.
  Result<> ChildStarted();

  // Before the terminal exists the size is kept for it. Without a terminal nothing happens.
  Result<> Resize(uint32_t rows, uint32_t columns);
  void CloseStdin();

 private:
  struct Stream {
    std::string token;
    UniqueFd early;  // came before there was a pump for it
  };

  ProcessIo(EventLoop& loop, StdioHub& hub) : loop_(loop), hub_(hub) {}

  Result<> MakePipes(const v1::Stdio& stdio);
  Result<> ExpectConsole(const std::string& scratch_dir);
  Result<> MakeConsole();
  Result<> ExpectStream(int number, const std::string& token);
  void OnStream(int number, UniqueFd stream);
  Result<> ReceiveConsole();

  EventLoop& loop_;
  StdioHub& hub_;
  bool terminal_ = false;
  uint32_t rows_ = 0;
  uint32_t columns_ = 0;
  std::string console_path_;
  UniqueFd console_listener_;
  UniqueFd console_;  // the pseudo terminal's controlling end
  UniqueFd child_[3];
  Stream streams_[3];
  std::shared_ptr<InputPump> input_;
  std::shared_ptr<OutputPump> output_;
  std::shared_ptr<OutputPump> error_;
};

}  // namespace wyvern::agent
