#include "stdio/process_stdio.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "base/log.h"
#include "stdio/fifo.h"
#include "stdio/logger.h"
#include "stdio/pump.h"
#include "stdio/target.h"

namespace wyvern::shim {

namespace {

constexpr std::chrono::milliseconds kFirstRetry{2};
constexpr std::chrono::milliseconds kLastRetry{100};
constexpr std::chrono::milliseconds kConsumePatience{1000};
constexpr std::chrono::milliseconds kLastConsumeRetry{20};

// What a client has not read of a FIFO yet.
int UnreadBytes(FdRef reader) {
  int bytes = 0;
  return ioctl(reader.get(), FIONREAD, &bytes) == 0 ? bytes : 0;
}

}  // namespace

runtime::IoWanted WantedIo(const StdioSpec& spec) {
  runtime::IoWanted wanted;
  wanted.terminal = spec.terminal;
  wanted.stdin_stream = !spec.stdin_path.empty();
  wanted.stdout_stream = !spec.stdout_uri.empty();
  wanted.stderr_stream = !spec.stderr_uri.empty() && !spec.terminal;
  return wanted;
}

// Everything below without a mutex belongs to the thread that opens until Attach, then to the loop's.
class ProcessStdio::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(EventLoop& loop, std::shared_ptr<StreamHub> streams)
      : loop_(loop), streams_(std::move(streams)) {}

  Result<> Open(const StdioSpec& spec);
  void AwaitClient();
  void Attach(runtime::ProcessIo io);
  void CloseStdin();
  void EndStdin();
  void Abort();

  void Post(void (Impl::*method)()) {
    loop_.Post([self = shared_from_this(), method] { ((*self).*method)(); });
  }

  EventLoop& loop() { return loop_; }

  bool WaitDrained(std::chrono::milliseconds patience) {
    std::unique_lock lock(mu_);
    return drained_changed_.wait_for(lock, patience, [this] { return drained_; });
  }

  void WaitFlushed(std::chrono::milliseconds stall, std::chrono::milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    uint64_t before = progress_.load(std::memory_order_relaxed);
    while (!WaitDrained(stall) && std::chrono::steady_clock::now() < deadline) {
      const uint64_t now = progress_.load(std::memory_order_relaxed);
      if (now == before) {
        return;
      }
      before = now;
    }
  }

 private:
  struct Output {
    Target target;
    UniqueFd source;
    UniqueFd sink;
    UniqueFd own_reader;
    StreamHub::Lease stream;
    std::shared_ptr<Pump> pump;
    EventLoop::Token retry = EventLoop::Token::kNone;
    std::chrono::milliseconds delay = kFirstRetry;
    std::chrono::steady_clock::time_point ended_at;
    int unread = 0;  // when last looked, after the end
    bool done = true;
  };

  Result<> OpenInput(const StdioSpec& spec);
  Result<> OpenOutput(Output& output);
  Result<> OpenLogger(const StdioSpec& spec);
  void StartOutput(Output& output);
  void OpenFifo(Output& output);
  void StartPump(Output& output);
  void EndOutput(Output& output);
  void AwaitConsumed(Output& output);
  void StdinEnded();
  void WatchLogger();
  void CheckDrained();

  EventLoop& loop_;
  const std::shared_ptr<StreamHub> streams_;
  const std::chrono::steady_clock::time_point opened_at_ = std::chrono::steady_clock::now();
  bool terminal_ = false;
  bool aborted_ = false;
  bool logger_watched_ = false;
  StdinEnds stdin_;
  StreamHub::Lease stdin_stream_;
  UniqueFd stdin_sink_;
  std::shared_ptr<Pump> stdin_pump_;
  std::array<Output, 2> outputs_;  // stdout, stderr
  std::shared_ptr<Logger> logger_;

  std::atomic<uint64_t> progress_{0};  // grows whenever output moves

  std::mutex mu_;
  std::condition_variable drained_changed_;
  bool drained_ = false;  // guarded by mu_
};

Result<> ProcessStdio::Impl::Open(const StdioSpec& spec) {
  terminal_ = spec.terminal;
  WV_TRY(outputs_[0].target, ParseTarget(spec.stdout_uri));
  if (!spec.terminal) {
    WV_TRY(outputs_[1].target, ParseTarget(spec.stderr_uri));
  }
  WV_TRY_VOID(OpenInput(spec));
  for (Output& output : outputs_) {
    WV_TRY_VOID_CONTEXT(OpenOutput(output), "stdio");
  }
  return OpenLogger(spec);
}

Result<> ProcessStdio::Impl::OpenInput(const StdioSpec& spec) {
  WV_TRY(const Target target, ParseTarget(spec.stdin_path));
  if (target.kind == TargetKind::kFifo) {
    WV_TRY_CONTEXT(stdin_, OpenStdin(target.path), "stdin");
  } else if (target.kind == TargetKind::kStream && streams_ != nullptr) {
    WV_TRY_CONTEXT(stdin_stream_, streams_->OpenInput(target.stream, &stdin_), "stdin");
  } else if (target.kind != TargetKind::kNone) {
    return Fail(Code::kInvalidArgument, "stdin must be a path or a stream: " + spec.stdin_path);
  }
  return {};
}

Result<> ProcessStdio::Impl::OpenOutput(Output& output) {
  if (output.target.kind == TargetKind::kFile) {
    WV_TRY(output.sink, OpenLogFile(output.target.path));
  } else if (output.target.kind == TargetKind::kFifo) {
    // A path that is wrong is told now; a client that is late is waited for later.
    WV_TRY(auto ends, TryOpenOutput(output.target.path));
    if (ends) {
      output.sink = std::move(ends->writer);
      output.own_reader = std::move(ends->own_reader);
    }
  } else if (output.target.kind == TargetKind::kStream) {
    if (streams_ == nullptr) {
      return Fail(Code::kInvalidArgument, "no streams are served here");
    }
    OutputEnds ends;
    WV_TRY(output.stream, streams_->OpenOutput(output.target.stream, &ends));
    output.sink = std::move(ends.writer);
    output.own_reader = std::move(ends.own_reader);
  }
  return {};
}

Result<> ProcessStdio::Impl::OpenLogger(const StdioSpec& spec) {
  // One program serves both streams; runc takes stdout's URI for both, too.
  if (outputs_[0].target.kind != TargetKind::kBinary) {
    if (outputs_[1].target.kind == TargetKind::kBinary) {
      return Fail(Code::kInvalidArgument, "stderr names a logging program, stdout does not");
    }
    return {};
  }
  WV_TRY(Logger::Started started, Logger::Start(loop_, outputs_[0].target, spec.ns, spec.id));
  logger_ = std::move(started.logger);
  outputs_[0].sink = std::move(started.stdout_writer);
  if (outputs_[1].target.kind == TargetKind::kBinary) {
    outputs_[1].sink = std::move(started.stderr_writer);
  }
  return {};
}

void ProcessStdio::Impl::AwaitClient() {
  std::chrono::milliseconds delay{1};
  for (Output& output : outputs_) {
    while (output.target.kind == TargetKind::kFifo && !output.sink.valid() &&
           std::chrono::steady_clock::now() < opened_at_ + kClientPatience) {
      std::this_thread::sleep_for(delay);
      delay = std::min(delay * 2, std::chrono::milliseconds(20));
      auto ends = TryOpenOutput(output.target.path);
      if (!ends) {
        break;  // Attach says so
      }
      if (*ends) {
        output.sink = std::move((*ends)->writer);
        output.own_reader = std::move((*ends)->own_reader);
      }
    }
  }
}

void ProcessStdio::Impl::Attach(runtime::ProcessIo io) {
  if (aborted_) {
    return;
  }
  WatchLogger();
  outputs_[0].source = std::move(io.stdout_stream);
  outputs_[1].source = std::move(io.stderr_stream);
  for (Output& output : outputs_) {
    output.done = !output.source.valid();
  }
  stdin_sink_ = std::move(io.stdin_stream);
  if (stdin_.reader.valid() && stdin_sink_.valid()) {
    stdin_pump_ = Pump::Start(loop_, stdin_.reader, stdin_sink_, Pump::OnBrokenSink::kEnd,
                              [self = shared_from_this()] { self->StdinEnded(); });
  }
  for (Output& output : outputs_) {
    if (output.done) {
      EndOutput(output);
    } else {
      StartOutput(output);
    }
  }
}

void ProcessStdio::Impl::WatchLogger() {
  if (logger_ != nullptr && !logger_watched_) {
    logger_watched_ = true;
    logger_->Watch([self = shared_from_this()] { self->CheckDrained(); });
  }
}

void ProcessStdio::Impl::StartOutput(Output& output) {
  if (output.sink.valid()) {
    StartPump(output);
  } else {
    OpenFifo(output);
  }
}

void ProcessStdio::Impl::OpenFifo(Output& output) {
  auto ends = TryOpenOutput(output.target.path);
  if (!ends) {
    WV_WARN("stdio: {}; the output is dropped", ends.error().message());
    auto null = wyvern::Open("/dev/null", O_WRONLY);
    if (!null) {
      EndOutput(output);
      return;
    }
    output.sink = *std::move(null);
    StartPump(output);
    return;
  }
  if (*ends) {
    output.sink = std::move((*ends)->writer);
    output.own_reader = std::move((*ends)->own_reader);
    StartPump(output);
    return;
  }
  output.retry = loop_.After(output.delay, [self = shared_from_this(), &output] {
    output.retry = EventLoop::Token::kNone;
    self->OpenFifo(output);
  });
  output.delay = std::min(output.delay * 2, kLastRetry);
}

void ProcessStdio::Impl::StartPump(Output& output) {
  output.pump = Pump::Start(loop_, output.source, output.sink, Pump::OnBrokenSink::kDiscard,
                            [self = shared_from_this(), &output] { self->EndOutput(output); });
  output.pump->CountInto(&progress_);
}

void ProcessStdio::Impl::EndOutput(Output& output) {
  output.pump.reset();
  output.source.Reset();
  output.sink.Reset();
  output.delay = kFirstRetry;
  output.ended_at = std::chrono::steady_clock::now();
  AwaitConsumed(output);
}

// The client sees the end of its FIFO now. One that was slow to open it gives it up, unread, when the process is deleted: it gets a moment.
void ProcessStdio::Impl::AwaitConsumed(Output& output) {
  const int unread = output.own_reader.valid() ? UnreadBytes(output.own_reader) : 0;
  if (unread != output.unread) {
    output.unread = unread;
    progress_.fetch_add(1, std::memory_order_relaxed);
  }
  if (!aborted_ && unread > 0 &&
      std::chrono::steady_clock::now() < output.ended_at + kConsumePatience) {
    output.retry = loop_.After(output.delay, [self = shared_from_this(), &output] {
      output.retry = EventLoop::Token::kNone;
      self->AwaitConsumed(output);
    });
    output.delay = std::min(output.delay * 2, kLastConsumeRetry);
    return;
  }
  output.own_reader.Reset();
  output.done = true;
  CheckDrained();
}

void ProcessStdio::Impl::CheckDrained() {
  if (!outputs_[0].done || !outputs_[1].done) {
    return;
  }
  if (logger_ != nullptr && !logger_->exited()) {
    logger_->InputEnded();
    return;
  }
  const std::lock_guard lock(mu_);
  drained_ = true;
  drained_changed_.notify_all();
}

void ProcessStdio::Impl::StdinEnded() {
  stdin_pump_.reset();
  stdin_.reader.Reset();
  stdin_.own_writer.Reset();
  // The end of a terminal's input is what is typed (^D), not that its client has gone.
  if (!terminal_ && stdin_sink_.valid()) {
    shutdown(stdin_sink_.get(), SHUT_WR);
  }
}

void ProcessStdio::Impl::CloseStdin() {
  stdin_.own_writer.Reset();
  stdin_stream_.CloseInput();
}

void ProcessStdio::Impl::EndStdin() {
  if (stdin_pump_ != nullptr) {
    std::exchange(stdin_pump_, nullptr)->Stop();
  }
  stdin_ = StdinEnds();
  stdin_stream_ = {};
  stdin_sink_.Reset();
}

void ProcessStdio::Impl::Abort() {
  aborted_ = true;
  EndStdin();
  for (Output& output : outputs_) {
    if (output.pump != nullptr) {
      std::exchange(output.pump, nullptr)->Stop();
    }
    loop_.Remove(std::exchange(output.retry, EventLoop::Token::kNone));
    EndOutput(output);
    output.stream = {};
  }
  WatchLogger();
  if (logger_ != nullptr && !logger_->exited()) {
    logger_->Terminate();
  }
}

ProcessStdio::ProcessStdio(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

ProcessStdio::~ProcessStdio() {
  Abort();
}

Result<std::unique_ptr<ProcessStdio>> ProcessStdio::Open(EventLoop& loop, const StdioSpec& spec,
                                                         std::shared_ptr<StreamHub> streams) {
  auto impl = std::make_shared<Impl>(loop, std::move(streams));
  WV_TRY_VOID(impl->Open(spec));
  return std::unique_ptr<ProcessStdio>(new ProcessStdio(std::move(impl)));
}

void ProcessStdio::AwaitClient() {
  impl_->AwaitClient();
}

void ProcessStdio::Attach(runtime::ProcessIo io) {
  impl_->loop().Post([impl = impl_, shared = std::make_shared<runtime::ProcessIo>(std::move(io))] {
    impl->Attach(std::move(*shared));
  });
}

void ProcessStdio::CloseStdin() {
  impl_->Post(&Impl::CloseStdin);
}

void ProcessStdio::ProcessExited() {
  impl_->Post(&Impl::EndStdin);
}

bool ProcessStdio::WaitDrained(std::chrono::milliseconds patience) {
  return impl_->WaitDrained(patience);
}

void ProcessStdio::WaitFlushed(std::chrono::milliseconds stall, std::chrono::milliseconds limit) {
  impl_->WaitFlushed(stall, limit);
}

void ProcessStdio::Abort() {
  impl_->Post(&Impl::Abort);
}

}  // namespace wyvern::shim
