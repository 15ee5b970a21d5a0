#include "bootstrap/start.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <chrono>
#include <cstdlib>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/subprocess.h"
#include "bootstrap/bundle.h"
#include "bootstrap/dialect.h"
#include "bootstrap/socket.h"

namespace wyvern::shim {

namespace {

constexpr char kReady = '+';
constexpr std::chrono::milliseconds kReadyPatience{5000};
constexpr size_t kMaxFailureText = 4096;
constexpr std::chrono::milliseconds kTermPatience{2000};
constexpr char kAskedAtEnv[] = "WYVERN_SHIM_ASKED_AT";  // steady_clock's ticks

void SetEnv(std::vector<std::string>& env, const std::string& key, const std::string& value) {
  std::erase_if(env, [&](const std::string& entry) { return entry.starts_with(key + "="); });
  env.push_back(key + "=" + value);
}

// containerd keeps both ends of the FIFO open. Without it (run by hand) there is no log.
Result<UniqueFd> OpenLog(const std::string& bundle) {
  auto log = Open(bundle + "/log", O_WRONLY | O_NONBLOCK);
  if (log) {
    return log;
  }
  return Open("/dev/null", O_WRONLY);
}

Result<> AwaitReady(FdRef ready, const Subprocess& server) {
  std::string said;
  const auto deadline = std::chrono::steady_clock::now() + kReadyPatience;
  while (said.size() < kMaxFailureText && (said.empty() || said[0] != kReady)) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd polled{.fd = ready.get(), .events = POLLIN, .revents = 0};
    if (left.count() <= 0 || poll(&polled, 1, static_cast<int>(left.count())) == 0) {
      (void)server.Kill(SIGKILL);
      return Fail(Code::kDeadlineExceeded, "the shim's server did not get ready in time");
    }
    std::array<std::byte, 512> buffer{};
    WV_TRY(const size_t got, ReadSome(ready, buffer));
    if (got == 0) {
      (void)server.Kill(SIGKILL);
      return Fail(Code::kInternal,
                  said.empty() ? std::string("the shim's server died while starting") : said);
    }
    said.append(reinterpret_cast<const char*>(buffer.data()), got);
  }
  return {};
}

// A server that nobody will be told of. It may have been found by the `start` of another member of its group: it ends as it does by SIGTERM.
void EndSpawned(const Subprocess& server) {
  (void)server.Kill(SIGTERM);
  pollfd ended{.fd = server.pid_fd().fd().get(), .events = POLLIN, .revents = 0};
  if (poll(&ended, 1, static_cast<int>(kTermPatience.count())) <= 0) {
    (void)server.Kill(SIGKILL);
  }
  (void)server.Wait();
}

// Returns when it serves.
Result<Subprocess> SpawnServer(const Args& args, const StartEnvironment& environment,
                               const StartInput& input, const std::string& socket_path,
                               FdRef listener) {
  WV_TRY(const UniqueFd log, OpenLog(environment.bundle));
  WV_TRY(PipePair ready, MakePipe());
  SpawnOptions spawn;
  spawn.argv = {environment.self, "-namespace", args.ns,   "-id",      args.id,
                "-address",       args.address, "-socket", socket_path};
  if (!args.publish_binary.empty()) {
    spawn.argv.insert(spawn.argv.end(), {"-publish-binary", args.publish_binary});
  }
  if (args.debug || input.debug) {
    spawn.argv.emplace_back("-debug");
  }
  spawn.argv.emplace_back("serve");
  spawn.env = environment.env;
  if (!input.ttrpc_address.empty()) {
    SetEnv(spawn.env, "TTRPC_ADDRESS", input.ttrpc_address);
  }
  SetEnv(spawn.env, kAskedAtEnv, std::to_string(environment.asked_at.time_since_epoch().count()));
  spawn.fds = {{2, log}, {kServeListenerFd, listener}, {kServeReadyFd, ready.write}};
  spawn.cwd = environment.bundle;
  spawn.new_session = true;
  WV_TRY_CONTEXT(Subprocess server, Subprocess::Spawn(spawn), "starting the shim's server");
  ready.write.Reset();
  WV_TRY_VOID(AwaitReady(ready.read, server));
  return server;
}

}  // namespace

Result<std::string> RunStart(const Args& args, const StartEnvironment& environment) {
  const StartInput input = DecodeStartInput(environment.stdin_bytes, args.id, args.ns);
  std::string group;
  if (access((environment.bundle + "/config.json").c_str(), F_OK) == 0) {
    WV_TRY(group, GroupOf(environment.bundle));
  } else if (!input.options.empty()) {
    WV_TRY_VOID_CONTEXT(
        WriteFileAtomically(environment.bundle + "/" + kStartOptionsFile, input.options, 0600),
        "keeping the runtime options");
  }
  const std::string dir = input.socket_dir.empty() ? environment.socket_dir : input.socket_dir;
  const std::string path = SocketPath(dir, args.address, args.ns, group.empty() ? args.id : group);
  const std::string address = "unix://" + path;
  WV_TRY_CONTEXT(BoundSocket socket, BindOrReuse(path), "making the shim's socket");
  const bool ours = socket.listener.valid();
  std::optional<Subprocess> server;
  Cleanup undo([&] {
    if (ours) {
      unlink(path.c_str());
    }
    if (server) {
      EndSpawned(*server);
    }
  });
  if (ours) {
    WV_TRY(Subprocess spawned, SpawnServer(args, environment, input, path, socket.listener));
    server.emplace(std::move(spawned));
  }
  // containerd 1.6 and 1.7 find a running shim again by this file only.
  auto written = WriteFileAtomically(environment.bundle + "/address", address, 0644);
  if (!written) {
    // A server that was there before serves others of its group.
    return tl::unexpected(std::move(written).error().WithContext("writing the address file"));
  }
  undo.Cancel();
  return EncodeStartAnswer(input.dialect, address);
}

std::optional<std::chrono::steady_clock::time_point> AskedAt() {
  using Clock = std::chrono::steady_clock;
  const char* text = getenv(kAskedAtEnv);
  Clock::rep ticks = 0;
  if (text == nullptr) {
    return {};
  }
  const std::string_view digits(text);
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), ticks);
  const Clock::time_point at{Clock::duration(ticks)};
  if (error != std::errc() || end != digits.end() || at > Clock::now()) {
    return {};
  }
  return at;
}

void ReportReady(const std::string& failure) {
  const UniqueFd ready(kServeReadyFd);
  if (fcntl(ready.get(), F_GETFD) < 0) {
    return;
  }
  auto told = WriteAll(ready, failure.empty() ? std::string(1, kReady) : failure);
  if (!told) {
    WV_WARN("telling that the server is ready: {}", told.error().message());
  }
}

}  // namespace wyvern::shim
