#include "bench/guest_shell.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <future>

namespace wyvern::bench {

namespace {

using Clock = std::chrono::steady_clock;

Result<> ReadOutput(FdRef stream, FdRef out, Clock::time_point deadline, CommandResult& result) {
  std::array<std::byte, 1 << 16> buffer;
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd wait = {stream.get(), POLLIN, 0};
    if (left <= 0 || poll(&wait, 1, static_cast<int>(left)) == 0) {
      return Fail(Code::kDeadlineExceeded, "the command in the guest has not ended");
    }
    WV_TRY(const size_t got, ReadSome(stream, buffer));
    if (got == 0) {
      return {};
    }
    result.bytes += got;
    const auto piece = std::span<const std::byte>(buffer).first(got);
    if (out.valid()) {
      WV_TRY_VOID(WriteAll(out, piece));
    } else {
      const size_t room = GuestShell::kMaxText - result.text.size();
      result.text.append(reinterpret_cast<const char*>(piece.data()), std::min(room, got));
    }
  }
}

}  // namespace

Result<> GuestShell::Connect(std::chrono::milliseconds patience) {
  runtime::AgentOptions options;
  options.boot_timeout = patience;
  WV_TRY(auto agent, runtime::AgentClient::Connect(connector_, std::move(options)));
  const std::lock_guard lock(mu_);
  agent_ = std::move(agent);
  return {};
}

Result<CommandResult> GuestShell::Run(const std::string& script, FdRef out,
                                      std::chrono::milliseconds patience) {
  const auto deadline = Clock::now() + patience;
  std::shared_ptr<runtime::AgentClient> agent;
  std::string name;
  {
    const std::lock_guard lock(mu_);
    agent = agent_;
    name = fmt::format("run{}", next_++);
  }
  if (agent == nullptr) {
    return Fail(Code::kFailedPrecondition, "no agent is connected");
  }
  WV_TRY(const runtime::StdioStreams streams, agent->OpenStdio({.out = true}));
  runtime::agent_pb::GuestCommand command;
  for (const char* word : {"/bin/sh", "-c", script.c_str()}) {
    command.add_args(word);
  }
  command.add_env("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
  command.set_cwd("/");
  WV_TRY_VOID(agent->AddGuestProcess(name, std::move(command), streams.message));
  WV_TRY_VOID(agent->StartProcess("", name));
  const auto ended = std::make_shared<std::promise<Result<uint32_t>>>();
  auto status = ended->get_future();
  agent->WaitProcess("", name, [ended](Result<uint32_t> exit_status) {
    ended->set_value(std::move(exit_status));
  });
  CommandResult result;
  WV_TRY_VOID(ReadOutput(streams.out, out, deadline, result));
  if (status.wait_until(deadline) != std::future_status::ready) {
    return Fail(Code::kDeadlineExceeded, "the command in the guest has not ended");
  }
  WV_TRY(result.status, status.get());
  WV_TRY_VOID(agent->DeleteProcess("", name));
  return result;
}

}  // namespace wyvern::bench
