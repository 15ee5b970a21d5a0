#include "container/hooks.h"

#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <utility>

#include "base/event_fd.h"
#include "base/log.h"
#include "base/subprocess.h"
#include "network/netns.h"
#include "oci/json.h"

namespace wyvern::runtime {
namespace {

constexpr std::chrono::seconds kDefaultTimeout{120};
constexpr size_t kErrorText = 500;

std::string StateJson(const HookState& state) {
  oci::Json json = {{"ociVersion", "1.0.2"},
                    {"id", state.id},
                    {"status", state.status},
                    {"bundle", state.bundle}};
  if (state.pid > 0) {
    json["pid"] = state.pid;
  }
  if (!state.annotations.empty()) {
    json["annotations"] = state.annotations;
  }
  return oci::Dump(json);
}

// Nobody of ours changes the environment once threads run.
std::vector<std::string> OurEnvironment() {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    out.emplace_back(*entry);
  }
  return out;
}

Result<UniqueFd> InputOf(const std::string& text) {
  WV_TRY(UniqueFd fd, MakeMemfd("hook-state", 0));
  WV_TRY_VOID(WriteAll(fd, std::string_view(text)));
  if (lseek(fd.get(), 0, SEEK_SET) != 0) {
    return SysError("lseek");
  }
  return fd;
}

struct HookEnd {
  ExitStatus status;
  std::string err;
};

// What is there, up to what is kept and a bit more: never until its end, which may be that of something left in the background.
void ReadErrors(UniqueFd& from, std::string& err) {
  std::array<std::byte, 4096> buffer;
  pollfd ready = {from.get(), POLLIN, 0};
  while (from.valid() && poll(&ready, 1, 0) == 1) {
    const auto got = ReadSome(from, buffer);
    if (!got.has_value() || *got == 0) {
      from.Reset();
      return;
    }
    if (err.size() < kErrorText) {
      err.append(reinterpret_cast<const char*>(buffer.data()), *got);
    } else {
      return;
    }
  }
}

// True: it has ended by itself.
bool AwaitHook(const Subprocess& process, UniqueFd& err_pipe, std::string& err,
               std::chrono::milliseconds timeout, const EventFd& stopped) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      return false;
    }
    std::array<pollfd, 3> waits = {{{process.pid_fd().fd().get(), POLLIN, 0},
                                    {stopped.fd().get(), POLLIN, 0},
                                    {err_pipe.get(), POLLIN, 0}}};
    if (poll(waits.data(), waits.size(), static_cast<int>(left.count())) < 0) {
      continue;  // a signal
    }
    if (waits[0].revents != 0) {
      ReadErrors(err_pipe, err);
      return true;
    }
    if (waits[1].revents != 0) {
      return false;
    }
    if (waits[2].revents != 0) {
      ReadErrors(err_pipe, err);
    }
  }
}

Result<HookEnd> RunOne(SpawnOptions spawn, std::chrono::milliseconds timeout,
                       const std::stop_token& stop) {
  WV_TRY(const EventFd stopped, EventFd::Create());
  const std::stop_callback wake(stop, [&stopped] { stopped.Signal(); });
  WV_TRY(PipePair err, MakePipe());
  spawn.fds.emplace_back(2, err.write);
  spawn.new_process_group = true;
  WV_TRY(const Subprocess process, Subprocess::Spawn(spawn));
  err.write.Reset();
  HookEnd end;
  const bool ended = AwaitHook(process, err.read, end.err, timeout, stopped);
  if (!ended) {
    kill(-process.pid(), SIGKILL);  // not reaped yet: the group's number is still its own
  }
  WV_TRY(end.status, process.Wait());
  if (!ended && stop.stop_requested()) {
    return Fail(Code::kAborted, "killed: the sandbox is shutting down");
  }
  if (!ended) {
    return Fail(Code::kDeadlineExceeded,
                fmt::format("it did not end within {} ms", timeout.count()));
  }
  return end;
}

Result<> RunHook(const char* kind, const oci::Hook& hook, const HookState& state,
                 const std::stop_token& stop, std::chrono::seconds limit = kMaxHookTimeout) {
  const std::string name = fmt::format("{} hook {}", kind, hook.path);
  if (stop.stop_requested()) {
    return Fail(Code::kAborted, name + " was not run: the sandbox is shutting down");
  }
  WV_TRY(const UniqueFd input, InputOf(StateJson(state)));
  SpawnOptions spawn;
  spawn.path = hook.path;
  spawn.argv = hook.args.empty() ? std::vector<std::string>{hook.path} : hook.args;
  spawn.env = hook.env.has_value() ? *hook.env : OurEnvironment();
  spawn.cwd = state.bundle;
  spawn.fds = {{0, input}};
  const auto timeout =
      hook.timeout_seconds > 0 ? std::chrono::seconds(hook.timeout_seconds) : kDefaultTimeout;
  WV_TRY_CONTEXT(const HookEnd end, RunOne(std::move(spawn), std::min(timeout, limit), stop), name);
  if (end.status.AsShell() != 0) {
    return Fail(Code::kAborted, fmt::format("{} ended with {}: {}", name, end.status.AsShell(),
                                            end.err.substr(0, kErrorText)));
  }
  return {};
}

}  // namespace

Result<> RunHooks(const char* kind, const std::vector<oci::Hook>& hooks, const HookState& state,
                  const std::stop_token& stop) {
  for (const oci::Hook& hook : hooks) {
    WV_TRY_VOID(RunHook(kind, hook, state, stop));
  }
  return {};
}

Result<> RunCreateHooks(const oci::HostHooks& hooks, const HookState& state,
                        const std::stop_token& stop) {
  WV_TRY_VOID(RunHooks("prestart", hooks.prestart, state, stop));
  WV_TRY_VOID(RunHooks("createRuntime", hooks.create_runtime, state, stop));
  if (hooks.create_container.empty()) {
    return {};
  }
  WV_TRY_CONTEXT(const UniqueFd network,
                 OpenNetworkNamespace(fmt::format("/proc/{}/ns/net", state.pid)),
                 "createContainer hooks");
  return InNetworkNamespace(network, [&]() -> Result<> {
    // The host's mounts still come and go in it: a hook may wait for one.
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0) {
      return SysError("a mount namespace for createContainer hooks");
    }
    return RunHooks("createContainer", hooks.create_container, state, stop);
  });
}

void RunPoststopHooks(const std::vector<oci::Hook>& hooks, const HookState& state,
                      const std::stop_token& stop, std::chrono::seconds limit) {
  for (const oci::Hook& hook : hooks) {
    if (auto ran = RunHook("poststop", hook, state, stop, limit); !ran.has_value()) {
      WV_WARN("container {}: {}", state.id, ran.error().message());
    }
  }
}

}  // namespace wyvern::runtime
