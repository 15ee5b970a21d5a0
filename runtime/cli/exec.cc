// `wyvern exec`: a command in a living container, through the sandbox's control socket.
#include <fmt/format.h>
#include <poll.h>

#include <csignal>
#include <optional>

#include "base/worker_thread.h"
#include "cli/commands.h"
#include "cli/control_client.h"
#include "cli/terminal.h"
#include "config/config.h"

namespace wyvern::cli {

namespace {

constexpr std::chrono::milliseconds kCallTimeout(30000);

control::v1::ExecRequest MakeRequest(const ExecOptions& options, const std::string& container) {
  control::v1::ExecRequest request;
  request.set_container_id(container);
  request.set_guest(options.guest);
  for (const std::string& argument : options.command) {
    request.add_args(argument);
  }
  for (const std::string& entry : options.env) {
    request.add_env(entry);
  }
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

// Sends our standard input as stream messages until its end or until `stop`.
void SendInput(ttrpc::RawClientStream& stream, const EventFd& stop) {
  std::vector<std::byte> buffer(32U << 10U);
  for (;;) {
    std::array<pollfd, 2> polled = {pollfd{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0},
                                    pollfd{.fd = stop.fd().get(), .events = POLLIN, .revents = 0}};
    if (poll(polled.data(), polled.size(), -1) < 0) {
      continue;
    }
    if (polled[1].revents != 0) {
      return;
    }
    const auto got = ReadSome(FdRef(STDIN_FILENO), buffer);
    control::v1::StreamData message;
    message.set_stream(0);
    if (got && *got > 0) {
      message.set_data(buffer.data(), *got);
    } else {
      message.set_eof(true);
    }
    if (!stream.Send(message.SerializeAsString()) || message.eof()) {
      return;
    }
  }
}

Result<> ReceiveOutput(ttrpc::RawClientStream& stream) {
  for (;;) {
    WV_TRY(const std::optional<std::string> payload, stream.Read());
    if (!payload) {
      return {};
    }
    control::v1::StreamData message;
    if (!message.ParseFromString(*payload)) {
      return Fail(Code::kDataLoss, "the sandbox sent a message that is none");
    }
    WV_TRY_VOID(
        WriteAll(FdRef(message.stream() == 2 ? STDERR_FILENO : STDOUT_FILENO), message.data()));
  }
}

}  // namespace

Result<int> Exec(const ExecOptions& options) {
  signal(SIGPIPE, SIG_IGN);
  WV_TRY(const auto config, runtime::LoadConfig({}));
  WV_TRY(FoundContainer found, FindContainer(config->state_dir, options.sandbox.id));
  ttrpc::Client& client = *found.sandbox.client;
  WV_TRY(const auto exec, (client.Call<control::v1::ExecRequest, control::v1::ExecResponse>(
                              kControlService, "Exec", MakeRequest(options, found.container_id),
                              {.timeout = kCallTimeout})));
  control::v1::StreamData first;
  first.set_container_id(found.container_id);
  first.set_exec_id(exec.exec_id());
  WV_TRY(ttrpc::RawClientStream stream,
         client.OpenRawStream(kControlService, "Stream", "", true, {}));
  WV_TRY_VOID(stream.Send(first.SerializeAsString()));
  std::optional<RawTerminal> raw;
  if (options.tty && IsTerminal(FdRef(STDIN_FILENO))) {
    WV_TRY(RawTerminal entered, RawTerminal::Enter(FdRef(STDIN_FILENO)));
    raw.emplace(std::move(entered));
  }
  WV_TRY(const auto input,
         WorkerThread::Start("stdin", [&stream](const EventFd& stop) { SendInput(stream, stop); }));
  WV_TRY_VOID(ReceiveOutput(stream));
  input->Join();
  control::v1::ExecRef ref;
  ref.set_container_id(found.container_id);
  ref.set_exec_id(exec.exec_id());
  WV_TRY(const auto exit, (client.Call<control::v1::ExecRef, control::v1::WaitExecResponse>(
                              kControlService, "WaitExec", ref)));
  return static_cast<int>(exit.exit_status());
}

}  // namespace wyvern::cli
