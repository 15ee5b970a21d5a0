// stdio/process_stdio.h — the three streams of one process, between the sandbox's sockets and what the client named.
// Life:    Open (paths checked, stdin and loggers opened) → Attach (bytes flow) → output ends: our ends of the client's FIFOs are closed at once,
//          because clients wait for that before they delete → Abort closes what is left.
// Shape:   a client opens its ends by itself, perhaps late, and gives them up when it hears of the exit: AwaitClient, between Open and Attach, is the
//          time it is given. No thread waits longer than that: while no client has opened its end, output stays where it is (back-pressure up to the process itself).
// Threads: Open blocks for a logger up to its patience; everything else returns at once and may be called from any thread, in any order.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "sandbox/sandbox.h"
#include "stdio/stream_hub.h"

namespace wyvern::shim {

struct StdioSpec {
  std::string ns;
  std::string id;  // what a logger is told: the container's, or the exec's
  std::string stdin_path;
  std::string stdout_uri;
  std::string stderr_uri;
  bool terminal = false;
};

// Which streams to ask the sandbox for.
runtime::IoWanted WantedIo(const StdioSpec& spec);

class ProcessStdio {
 public:
  static constexpr std::chrono::milliseconds kClientPatience{1000};

  // `loop` outlives the object and runs on another thread. `streams`: where streams are served (of the same loop); null: a stream is INVALID_ARGUMENT.
  static Result<std::unique_ptr<ProcessStdio>> Open(EventLoop& loop, const StdioSpec& spec,
                                                    std::shared_ptr<StreamHub> streams = nullptr);
  // Abort.
  ~ProcessStdio();
  ProcessStdio(const ProcessStdio&) = delete;
  ProcessStdio& operator=(const ProcessStdio&) = delete;

  // Returns once the client has opened its ends of the output FIFOs, or when kClientPatience has passed since Open. Before Attach, by the
  // thread that opened.
  void AwaitClient();
  void Attach(runtime::ProcessIo io);
  // The client sends no more: the end of stdin follows once every client has closed the FIFO. Idempotent; also before Attach.
  void CloseStdin();
  // Nobody reads stdin any more; output may still come.
  void ProcessExited();
  // True once all output was handed over and loggers have ended. Blocks up to `patience`.
  bool WaitDrained(std::chrono::milliseconds patience);
  // For the moment between a process's end and its announcement: returns once the client has read everything, or when nothing moved for
  // `stall`, or after `limit`. Clients of containerd 1.6 close their ends, read or not, as soon as they hear of the exit.
  void WaitFlushed(std::chrono::milliseconds stall, std::chrono::milliseconds limit);
  // Drops what is left, ends loggers. Idempotent.
  void Abort();

 private:
  class Impl;
  explicit ProcessStdio(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace wyvern::shim
