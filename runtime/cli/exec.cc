// `wyvern exec`: a command in a living container or beside the agent, through the sandbox's control socket.
#include <fmt/format.h>
#include <poll.h>

#include <atomic>
#include <csignal>
#include <optional>

#include "base/log.h"
#include "base/worker_thread.h"
#include "cli/commands.h"
#include "cli/control_client.h"
#include "cli/terminal.h"
#include "config/config.h"
#include "control/exec_stream.h"

namespace wyvern::cli {

namespace {

namespace pb = control::v1;

constexpr std::chrono::milliseconds kExecTimeout(30000);
constexpr size_t kInputChunk = 32U << 10U;

pb::ExecRequest MakeRequest(const ExecOptions& options, const std::string& container) {
  pb::ExecRequest request;
  request.set_container_id(container);
  request.set_guest(options.guest);
  request.mutable_args()->Assign(options.command.begin(), options.command.end());
  request.mutable_env()->Assign(options.env.begin(), options.env.end());
  request.set_cwd(options.cwd);
  request.set_user(options.user);
  request.set_terminal(options.tty);
  if (options.tty) {
    const TerminalSize size = GetTerminalSize(FdRef(STDIN_FILENO));
    request.set_rows(size.rows);
    request.set_columns(size.columns);
  }
  return request;
}

// One exec that has been started: its streams and what goes beside them.
class Session {
 public:
  static Result<std::unique_ptr<Session>> Attach(ttrpc::Client& client, const pb::ExecRef& ref);

  // Until the end of our standard input, or `stop`.
  void SendInput(const EventFd& stop);

  void SendEndOfInput() { Send(0, {}, true); }

  // Until the end of the output.
  Result<> ReceiveOutput();
  // Until `stop`.
  void ForwardSignals(const SignalFd& signals, bool tty, const EventFd& stop);
  Result<int> ExitStatus();

 private:
  Session(ttrpc::Client& client, pb::ExecRef ref, ttrpc::RawClientStream stream, EventFd taken)
      : client_(client),
        ref_(std::move(ref)),
        stream_(std::move(stream)),
        taken_(std::move(taken)) {}

  bool Send(uint32_t number, std::span<const std::byte> data, bool eof);
  Result<> TakeOutput(const pb::StreamData& message);
  void Signal(int number);
  void Resize();

  ttrpc::Client& client_;
  const pb::ExecRef ref_;
  ttrpc::RawClientStream stream_;
  EventFd taken_;                // the process has taken some of our input
  std::atomic<int> untaken_{0};  // messages of it that are on their way
  bool nobody_reads_ = false;    // our standard output is closed
};

Result<std::unique_ptr<Session>> Session::Attach(ttrpc::Client& client, const pb::ExecRef& ref) {
  WV_TRY(ttrpc::RawClientStream stream,
         client.OpenRawStream(kControlService, "Stream", "", true, {}));
  WV_TRY(EventFd taken, EventFd::Create());
  pb::StreamData first;
  first.set_container_id(ref.container_id());
  first.set_exec_id(ref.exec_id());
  first.set_stream(1);  // both sides acknowledge what they have taken
  WV_TRY_VOID(stream.Send(first.SerializeAsString()));
  return std::unique_ptr<Session>(new Session(client, ref, std::move(stream), std::move(taken)));
}

bool Session::Send(uint32_t number, std::span<const std::byte> data, bool eof) {
  pb::StreamData message;
  message.set_stream(number);
  message.set_data(data.data(), data.size());
  message.set_eof(eof);
  return stream_.Send(message.SerializeAsString()).has_value();
}

void Session::SendInput(const EventFd& stop) {
  std::vector<std::byte> buffer(kInputChunk);
  for (;;) {
    const bool full = untaken_ >= shim::ExecStream::kWindow;
    std::array<pollfd, 3> polled = {
        pollfd{.fd = stop.fd().get(), .events = POLLIN, .revents = 0},
        pollfd{.fd = taken_.fd().get(), .events = POLLIN, .revents = 0},
        pollfd{.fd = full ? -1 : STDIN_FILENO, .events = POLLIN, .revents = 0}};
    if (poll(polled.data(), polled.size(), -1) < 0) {
      continue;
    }
    if (polled[0].revents != 0) {
      return;
    }
    taken_.Drain();
    if (polled[2].revents == 0) {
      continue;
    }
    const auto got = ReadSome(FdRef(STDIN_FILENO), buffer);
    if (!got || *got == 0) {
      SendEndOfInput();
      return;
    }
    ++untaken_;
    if (!Send(0, std::span(buffer).first(*got), false)) {
      return;
    }
  }
}

Result<> Session::ReceiveOutput() {
  for (;;) {
    WV_TRY(const std::optional<std::string> payload, stream_.Read());
    if (!payload) {
      return {};
    }
    pb::StreamData message;
    if (!message.ParseFromString(*payload)) {
      return Fail(Code::kDataLoss, "the sandbox sent a message that is none");
    }
    if (message.stream() != 0) {
      WV_TRY_VOID(TakeOutput(message));
    } else {
      --untaken_;
      taken_.Signal();
    }
  }
}

Result<> Session::TakeOutput(const pb::StreamData& message) {
  if (message.data().empty()) {
    return {};
  }
  if (!nobody_reads_) {
    auto written =
        WriteAll(FdRef(message.stream() == 2 ? STDERR_FILENO : STDOUT_FILENO), message.data());
    if (!written && written.error().sys_errno() == EPIPE) {
      // As in a pipeline on one machine; a process that goes on all the same writes into the void.
      nobody_reads_ = true;
      Signal(SIGPIPE);
    } else if (!written) {
      return written;
    }
  }
  (void)Send(message.stream(), {}, false);  // the stream may have ended meanwhile
  return {};
}

void Session::Signal(int number) {
  pb::SignalExecRequest request;
  request.set_container_id(ref_.container_id());
  request.set_exec_id(ref_.exec_id());
  request.set_signal(static_cast<uint32_t>(number));
  const auto sent = client_.Call<pb::SignalExecRequest, pb::Empty>(
      kControlService, "SignalExec", request, {.timeout = kExecTimeout});
  if (!sent && sent.error().code() != Code::kNotFound) {  // else it has ended
    WV_WARN("signal {}: {}", number, sent.error().message());
  }
}

void Session::Resize() {
  const TerminalSize size = GetTerminalSize(FdRef(STDIN_FILENO));
  pb::ResizeExecRequest request;
  request.set_container_id(ref_.container_id());
  request.set_exec_id(ref_.exec_id());
  request.set_rows(size.rows);
  request.set_columns(size.columns);
  (void)client_.Call<pb::ResizeExecRequest, pb::Empty>(kControlService, "ResizeExec", request,
                                                       {.timeout = kExecTimeout});
}

void Session::ForwardSignals(const SignalFd& signals, bool tty, const EventFd& stop) {
  for (;;) {
    std::array<pollfd, 2> polled = {
        pollfd{.fd = stop.fd().get(), .events = POLLIN, .revents = 0},
        pollfd{.fd = signals.fd().get(), .events = POLLIN, .revents = 0}};
    if (poll(polled.data(), polled.size(), -1) < 0) {
      continue;
    }
    if (polled[0].revents != 0) {
      return;
    }
    while (const int number = signals.Next().value_or(0)) {  // no signal is number 0
      if (number != SIGWINCH) {
        Signal(number);
      } else if (tty) {
        Resize();
      }
    }
  }
}

Result<int> Session::ExitStatus() {
  WV_TRY(const auto exit,
         (client_.Call<pb::ExecRef, pb::WaitExecResponse>(kControlService, "WaitExec", ref_)));
  return static_cast<int>(exit.exit_status());
}

// With --guest the sandbox alone counts.
Result<FoundContainer> FindTarget(const std::string& state_dir, const ExecOptions& options) {
  const SandboxRef ref{.id = options.id, .ns = options.ns};
  if (options.guest) {
    WV_TRY(LivingSandbox sandbox, FindSandbox(state_dir, ref));
    return FoundContainer{std::move(sandbox), ""};
  }
  WV_TRY(FoundContainer found, FindContainer(state_dir, ref));
  if (found.container_id.empty()) {
    return Fail(Code::kNotFound,
                "sandbox " + options.id + " has no container; --guest runs a command beside them");
  }
  return found;
}

}  // namespace

Result<int> Exec(const ExecOptions& asked) {
  signal(SIGPIPE, SIG_IGN);
  WV_TRY(const SignalFd signals,
         SignalFd::Create({SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH}));
  const bool on_terminal = IsTerminal(FdRef(STDIN_FILENO));
  const ExecOptions options = CompleteExecOptions(asked, on_terminal);
  WV_TRY(const auto config, runtime::LoadConfig({}));
  WV_TRY(const FoundContainer found, FindTarget(config->state_dir, options));
  const std::string& container = found.container_id;
  ttrpc::Client& client = *found.sandbox.client;
  WV_TRY(const auto exec,
         (client.Call<pb::ExecRequest, pb::ExecResponse>(
             kControlService, "Exec", MakeRequest(options, container), {.timeout = kExecTimeout})));
  pb::ExecRef ref;
  ref.set_container_id(container);
  ref.set_exec_id(exec.exec_id());
  WV_TRY(const auto session, Session::Attach(client, ref));
  std::optional<RawTerminal> raw;
  if (options.tty && on_terminal) {
    WV_TRY(RawTerminal entered, RawTerminal::Enter(FdRef(STDIN_FILENO)));
    raw.emplace(std::move(entered));
  }
  WV_TRY(const auto forwarder, WorkerThread::Start("signals", [&](const EventFd& stop) {
           session->ForwardSignals(signals, options.tty, stop);
         }));
  std::unique_ptr<WorkerThread> input;
  if (options.interactive) {
    WV_TRY(input,
           WorkerThread::Start("stdin", [&](const EventFd& stop) { session->SendInput(stop); }));
  } else {
    session->SendEndOfInput();
  }
  auto status = session->ReceiveOutput().and_then([&session] { return session->ExitStatus(); });
  if (!status && status.error().code() == Code::kUnavailable) {
    return Fail(Code::kUnavailable, "sandbox " + found.sandbox.hello.sandbox_id() +
                                        " has ended, and the command with it");
  }
  return status;
}

}  // namespace wyvern::cli
