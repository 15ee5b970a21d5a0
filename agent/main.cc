// wyvern-agent: pid 1 in the guest. Started otherwise it serves a test (--test-unix), runs one of its own slow calls, or becomes a
// process of `wyvern exec --guest`.
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/block_disk.h"
#include "agent/boot.h"
#include "agent/console_port.h"
#include "agent/crun.h"
#include "agent/device_guard.h"
#include "agent/early_boot.h"
#include "agent/guest_processes.h"
#include "agent/kernel_files.h"
#include "agent/machine.h"
#include "agent/pod_init.h"
#include "agent/reaper.h"
#include "agent/service.h"
#include "agent/stdio.h"
#include "agent/uevents.h"
#include "agent/upcall_service.h"
#include "agent/version.h"
#include "base/event_fd.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "ttrpc/server.h"
#include "upcall/preamble.h"

namespace wyvern::agent {
namespace {

constexpr uint32_t kApiPort = 100;
constexpr uint32_t kStdioPort = 102;
// Killed processes become zombies that are ours to reap.
constexpr std::chrono::milliseconds kReapDelay(50);

constexpr char kUsage[] =
    "usage: wyvern-agent                              pid 1 of a Wyvern guest\n"
    "       wyvern-agent --test-unix DIR [--crun FILE] [--allow NAME,…]\n"
    "                                                  serve on DIR/{api,stdio,upcall}.sock;\n"
    "                                                  DIR/machine is the root of /sys for the "
    "upcall\n"
    "       wyvern-agent --version\n";

struct Listeners {
  UniqueFd api;
  UniqueFd stdio;
  UniqueFd upcall;
  ttrpc::AcceptFilter filter;
};

// The VMM's end of the agent: a server of its own, so that who reaches the one API does not reach the other.
class Upcall {
 public:
  static Result<std::unique_ptr<Upcall>> Create(EventLoop& loop, std::string machine_root,
                                                Listeners& listeners) {
    // One client, with a few calls.
    ttrpc::ServerOptions options{.name = "upcall",
                                 .max_connections = 8,
                                 .max_calls_per_connection = 256,
                                 .max_unsent_bytes = 1U << 20};
    WV_TRY(auto server, ttrpc::Server::Create(loop, std::move(options)));
    std::unique_ptr<Upcall> upcall(new Upcall(loop, std::move(machine_root), std::move(server)));
    WV_TRY_VOID(upcall->server_->Listen(std::move(listeners.upcall), listeners.filter));
    return upcall;
  }

  // Without the kernel's events a console port that comes later is not seen; all else is polled.
  void FollowKernel(EventLoop& loop) {
    auto uevents = Uevents::Create(loop, [this] {
      service_.Wake();
      port_.Look();
    });
    if (uevents) {
      uevents_ = *std::move(uevents);
    } else {
      WV_WARN("upcall: {}", uevents.error().message());
    }
    port_.Look();
  }

 private:
  Upcall(EventLoop& loop, std::string machine_root, std::unique_ptr<ttrpc::Server> server)
      : files_(std::move(machine_root)),
        service_(loop, files_),
        server_(std::move(server)),
        port_(loop, files_, [this](UniqueFd stream) { return server_->Adopt(std::move(stream)); }) {
    service_.Register(*server_);
  }

  const KernelFiles files_;
  UpcallService service_;
  std::unique_ptr<ttrpc::Server> server_;
  ConsolePort port_;
  std::unique_ptr<Uevents> uevents_;
};

// How a test ends its agent: SIGTERM. A guest's agent ends with its machine.
Result<> EndOnTerminate(EventLoop& loop, const SignalFd& signals, Service& service) {
  WV_TRY_VOID(loop.Add(signals.fd(), EPOLLIN, [&](uint32_t) {
    while (signals.Next()) {
      service.KillAll();
      (void)loop.After(kReapDelay, [&loop] { loop.Stop(); });
    }
  }));
  return {};
}

Result<> Serve(Listeners listeners, CrunOptions crun_options, ServiceOptions options) {
  // A test's agent leaves the machine that it runs on alone.
  const bool owns_machine = options.owns_machine;
  const std::string machine_root = owns_machine ? "" : options.root_dir + "/machine";
  signal(SIGPIPE, SIG_IGN);
  WV_TRY(const auto loop, EventLoop::Create());
  WV_TRY(const auto reaper, Reaper::Create(*loop));
  WV_TRY(const auto hub, StdioHub::Create(*loop, std::move(listeners.stdio), listeners.filter));
  Crun crun(*loop, *reaper, std::move(crun_options));
  std::optional<SignalFd> terminate;
  if (!options.owns_machine) {
    WV_TRY(SignalFd signals, SignalFd::Create({SIGTERM}));
    terminate.emplace(std::move(signals));
  }
  options.timeline.push_back({"agent-ready", BoottimeNs()});
  WV_TRY(const auto service, Service::Create(*loop, *reaper, crun, *hub, std::move(options)));
  WV_TRY(const auto server, ttrpc::Server::Create(*loop, {.name = "agent"}));
  service->Register(*server);
  WV_TRY(const auto upcall, Upcall::Create(*loop, machine_root, listeners));
  if (terminate) {
    WV_TRY_VOID(EndOnTerminate(*loop, *terminate, *service));
  }
  if (owns_machine) {
    upcall->FollowKernel(*loop);
  }
  WV_TRY_VOID(server->Listen(std::move(listeners.api), listeners.filter));
  WV_INFO("wyvern-agent {} is ready", kVersion);
  return loop->Run();
}

Result<> RunAsInit() {
  ServiceOptions options;
  options.timeline.push_back({"agent-start", BoottimeNs()});
  // Before anything else: no process of a container can have taken a port, and the host may connect as early as it likes.
  Listeners listeners;
  // Who reaches the API reaches the streams.
  WV_TRY(listeners.stdio, ListenVsock(kStdioPort));
  WV_TRY(listeners.api, ListenVsock(kApiPort));
  WV_TRY(listeners.upcall, ListenVsock(upcall::kVsockPort));
  listeners.filter = ttrpc::PeerIsVsockHost;
  WV_TRY_VOID(SetUpMachine());
  WV_TRY_VOID_CONTEXT(GuardPorts(), "keeping containers from the virtio-console ports");
  WV_TRY_VOID(MakeRuntimeDirs(options.root_dir));
  WV_TRY(const std::string cmdline, ReadFile("/proc/cmdline"));
  const auto words = ParseKernelCommandLine(cmdline);
  if (const auto allow = words.find("wyvern.allow"); allow != words.end()) {
    options.allow = allow->second;
  }
  CrunOptions crun;
  crun.state_dir = options.root_dir + "/crun";
  crun.scratch_dir = options.root_dir + "/scratch";
  return Serve(std::move(listeners), std::move(crun), std::move(options));
}

// `args`: --test-unix DIR, and pairs of an option and its value.
Result<> RunTest(const std::vector<std::string>& args) {
  const std::string& dir = args[1];
  CrunOptions crun;
  ServiceOptions options;
  for (size_t i = 2; i + 1 < args.size(); i += 2) {
    if (args[i] == "--crun") {
      crun.binary = args[i + 1];
    } else if (args[i] == "--allow") {
      options.allow = args[i + 1];
    }
  }
  options.root_dir = dir;
  options.disks.sys = dir + "/sys";
  options.owns_machine = false;
  options.timeline.push_back({"agent-start", BoottimeNs()});
  WV_TRY_VOID(MakeRuntimeDirs(dir));
  Listeners listeners;
  WV_TRY(listeners.stdio, ListenUnix(dir + "/stdio.sock", 0600));
  WV_TRY(listeners.api, ListenUnix(dir + "/api.sock", 0600));
  WV_TRY(listeners.upcall, ListenUnix(dir + "/upcall.sock", 0600));
  listeners.filter = ttrpc::PeerIsRootOrSelf;
  crun.state_dir = dir + "/crun";
  crun.scratch_dir = dir + "/scratch";
  return Serve(std::move(listeners), std::move(crun), std::move(options));
}

Result<> SyncFilesystem(const std::string& path) {
  WV_TRY(const UniqueFd fd, Open(path, O_RDONLY | O_DIRECTORY));
  if (syncfs(fd.get()) != 0) {
    return SysError("syncfs " + path);
  }
  return {};
}

// All of them, also when one fails.
Result<> SyncFilesystems(const std::vector<std::string>& paths) {
  Result<> first;
  for (const std::string& path : paths) {
    if (auto synced = SyncFilesystem(path); !synced && first) {
      first = std::move(synced);
    }
  }
  return first;
}

int Report(const Result<>& result) {
  if (result) {
    return 0;
  }
  WV_ERROR("{}", result.error().DebugString());
  return 1;
}

int Main(const std::vector<std::string>& args) {
  SetLogComponent("agent");
  if (getpid() == 1 && (args.empty() || !args[0].starts_with("--"))) {
    if (InInitramfs()) {
      return Report(EarlyBoot());
    }
    return Report(RunAsInit());  // the end of pid 1 is the end of the guest
  }
  if (args.size() == 1 && args[0] == "--version") {
    (void)std::printf("wyvern-agent %s\n", kVersion);
    return 0;
  }
  if (args.size() >= 2 && args[0] == "--syncfs") {
    return Report(SyncFilesystems({args.begin() + 1, args.end()}));
  }
  if (args.size() == 1 && args[0] == "--drop-caches") {
    return Report(WriteFile("/proc/sys/vm/drop_caches", "3"));
  }
  if ((args.size() == 2 || args.size() == 4) && args[0] == kPodInitArgument) {
    return RunPodInit(args[1], args.size() == 4 ? args[2] : "", args.size() == 4 ? args[3] : "");
  }
  if (const auto exit_code = RunDiskCall(args); exit_code.has_value()) {
    return *exit_code;
  }
  if (!args.empty() && args[0] == kGuestExecArgument) {
    return RunGuestProgram({args.begin() + 1, args.end()});
  }
  if (args.size() >= 2 && args[0] == "--test-unix") {
    return Report(RunTest(args));
  }
  (void)std::fputs(kUsage, stderr);
  return 2;
}

}  // namespace
}  // namespace wyvern::agent

int main(int argc, char** argv) {
  return wyvern::agent::Main(std::vector<std::string>(argv + 1, argv + argc));
}
