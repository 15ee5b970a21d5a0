// `wyvern run`: a sandbox with one container in this process, without containerd.
#include <fcntl.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <fmt/format.h>
#include <chrono>
#include <csignal>
#include <optional>
#include <thread>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/worker_thread.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "cli/image_store.h"
#include "cli/keeper.h"
#include "cli/pump.h"
#include "cli/scratch.h"
#include "cli/terminal.h"
#include "cli/timeline.h"
#include "cli/version.h"
#include "config/config.h"
#include "control/control_server.h"
#include "guest/store.h"
#include "hypervisor/passt.h"
#include "oci/spec.h"
#include "sandbox/sandbox.h"
#include "state/state.h"

namespace wyvern::cli {

namespace {

constexpr const char* kNamespace = "wyvern-run";
// How long a guest may keep the output of a process open without a byte after the process has ended.
constexpr std::chrono::seconds kOutputStall{10};

std::string RandomName() {
  uint32_t number = 0;
  if (getrandom(&number, sizeof(number), 0) != sizeof(number)) {
    number = static_cast<uint32_t>(getpid());
  }
  return fmt::format("run-{:08x}", number);
}

// What the user chose on the command line, as a configuration source.
Result<std::vector<std::pair<std::string, std::string>>> ConfigWords(const RunOptions& options) {
  std::vector<std::pair<std::string, std::string>> words;
  if (options.cpus != 0) {
    words.emplace_back("sandbox.vcpus", fmt::format("{}", options.cpus));
  }
  if (!options.memory.empty()) {
    words.emplace_back("sandbox.memory", options.memory);
  }
  if (!options.guest.empty()) {
    if (!guest::IsGuestName(options.guest)) {
      return Fail(Code::kInvalidArgument, "--guest: \"" + options.guest +
                                              "\" is not a guest's name; see `wyvern guest list`");
    }
    words.emplace_back("guest.name", options.guest);
  }
  if (options.net == "user") {
    words.emplace_back("network.host", "passt");
  }
  return words;
}

runtime::Mount RootMount(const Image& image, const Scratch& scratch) {
  if (image.is_directory) {
    return {"bind", image.layers.front(), "", {"rbind", "rw"}};
  }
  std::string lower = "lowerdir=";
  for (auto layer = image.layers.rbegin(); layer != image.layers.rend(); ++layer) {
    lower += (layer == image.layers.rbegin() ? "" : ":") + *layer;
  }
  return {"overlay",
          "overlay",
          "",
          {lower, "upperdir=" + scratch.upper(), "workdir=" + scratch.work()}};
}

// Passes our signals to the container's init, and the terminal's size.
Result<std::unique_ptr<WorkerThread>> ForwardSignals(SignalFd signals, runtime::Sandbox& sandbox,
                                                     const std::string& id, bool tty) {
  auto shared = std::make_shared<SignalFd>(std::move(signals));
  return WorkerThread::Start("signals", [shared, &sandbox, id, tty](const EventFd& stop) {
    for (;;) {
      std::array<pollfd, 2> polled = {
          pollfd{.fd = shared->fd().get(), .events = POLLIN, .revents = 0},
          pollfd{.fd = stop.fd().get(), .events = POLLIN, .revents = 0}};
      if (poll(polled.data(), polled.size(), -1) < 0) {
        continue;
      }
      if (polled[1].revents != 0) {
        return;
      }
      while (const std::optional<int> signal = shared->Next()) {
        if (*signal == SIGWINCH) {
          if (tty) {
            const TerminalSize size = GetTerminalSize(FdRef(STDIN_FILENO));
            (void)sandbox.ResizeTerminal(id, "", size.rows, size.columns);
          }
          continue;
        }
        const auto sent = sandbox.Signal(id, "", *signal, false);
        if (!sent) {
          WV_WARN("signal {}: {}", *signal, sent.error().message());
        }
      }
    }
  });
}

struct Streams {
  std::unique_ptr<Pump> input;
  std::unique_ptr<Pump> output;
  std::unique_ptr<Pump> error;
};

Result<UniqueFd> DuplicateOf(int number) {
  UniqueFd fd(fcntl(number, F_DUPFD_CLOEXEC, 3));
  if (!fd.valid()) {
    return SysError("duplicate a standard stream");
  }
  return fd;
}

Result<Streams> StartStreams(runtime::ProcessIo io, runtime::Sandbox& sandbox,
                             const std::string& id) {
  Streams streams;
  if (io.stdin_stream.valid()) {
    WV_TRY(UniqueFd from, DuplicateOf(STDIN_FILENO));
    WV_TRY(streams.input, Pump::Start("stdin", std::move(from), std::move(io.stdin_stream),
                                      [&sandbox, id] { (void)sandbox.CloseStdin(id, ""); }));
  }
  if (io.stdout_stream.valid()) {
    WV_TRY(UniqueFd to, DuplicateOf(STDOUT_FILENO));
    WV_TRY(streams.output, Pump::Start("stdout", std::move(io.stdout_stream), std::move(to), {}));
  }
  if (io.stderr_stream.valid()) {
    WV_TRY(UniqueFd to, DuplicateOf(STDERR_FILENO));
    WV_TRY(streams.error, Pump::Start("stderr", std::move(io.stderr_stream), std::move(to), {}));
  }
  return streams;
}

Result<int> RunContainer(const RunOptions& options, runtime::Sandbox& sandbox, SignalFd signals,
                         const runtime::ContainerOptions& container) {
  WV_TRY(runtime::ProcessIo io, sandbox.CreateContainer(container));
  std::optional<RawTerminal> raw;
  if (options.tty && IsTerminal(FdRef(STDIN_FILENO))) {
    WV_TRY(RawTerminal entered, RawTerminal::Enter(FdRef(STDIN_FILENO)));
    raw.emplace(std::move(entered));
  }
  WV_TRY(Streams streams, StartStreams(std::move(io), sandbox, container.id));
  WV_TRY(const auto forwarder,
         ForwardSignals(std::move(signals), sandbox, container.id, options.tty));
  WV_TRY_VOID(sandbox.StartProcess(container.id, ""));
  if (!options.timeline.empty()) {
    WV_TRY_VOID(WriteFile(options.timeline, TimelineJson(sandbox.Timeline())));
  }
  WV_TRY(const runtime::ExitInfo exit, sandbox.Wait(container.id, ""));
  for (const auto& stream : {&streams.output, &streams.error}) {
    if (*stream) {
      (*stream)->Finish(kOutputStall);
    }
  }
  if (streams.input) {
    streams.input->Abandon();
  }
  WV_TRY_VOID(sandbox.DeleteProcess(container.id, ""));
  return static_cast<int>(exit.status);
}

// What `wyvern ps`, `exec`, `logs`, `metrics`, `top` and `events` talk to, and Prometheus.
Result<std::unique_ptr<shim::ControlServer>> ServeControl(const std::string& directory,
                                                          const std::string& name,
                                                          const std::string& bundle,
                                                          runtime::Sandbox& sandbox, pid_t keeper) {
  const auto created = std::chrono::system_clock::now();
  shim::ControlOptions options;
  options.ns = kNamespace;
  options.sandbox_id = name;
  options.version = kVersion;
  options.containers = [name, bundle, created, &sandbox] {
    std::vector<shim::ControlContainer> list;
    const auto state = sandbox.State(name, "");
    if (state) {
      list.push_back({.id = name,
                      .bundle = bundle,
                      .status = state->status,
                      .pid = state->pid,
                      .created_at = created});
    }
    return list;
  };
  options.metrics_socket = directory + "/metrics.sock";
  options.processes = {{"keeper", keeper}};
  return shim::ControlServer::Start(directory + "/control.sock", sandbox, std::move(options));
}

runtime::IoWanted WantedIo(const RunOptions& options) {
  runtime::IoWanted wanted;
  wanted.terminal = options.tty;
  wanted.stdin_stream = options.interactive || options.tty;
  wanted.stdout_stream = true;
  wanted.stderr_stream = !options.tty;
  if (options.tty) {
    const TerminalSize size = GetTerminalSize(FdRef(STDIN_FILENO));
    wanted.rows = size.rows;
    wanted.columns = size.columns;
  }
  return wanted;
}

}  // namespace

Result<int> Run(const RunOptions& options) {
  if (!options.name.empty()) {
    WV_TRY_VOID_CONTEXT(oci::CheckId(options.name), "--name");
  }
  if (geteuid() != 0) {
    return Fail(Code::kPermissionDenied,
                "wyvern run needs root: it mounts file systems and opens /dev/kvm");
  }
  signal(SIGPIPE, SIG_IGN);
  WV_TRY(SignalFd signals,
         SignalFd::Create({SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH}));
  runtime::ConfigSources sources;
  sources.options_path = options.config_file;
  WV_TRY(sources.command_line, ConfigWords(options));
  WV_TRY(auto config, runtime::LoadConfig(sources));
  SetLogLevel(config->log.level);
  WV_TRY(const Image image, OpenImage(options.source, kImageStore));
  WV_TRY(const std::string spec, MakeRunSpec(options, image));
  WV_TRY(auto published, PublishedPorts(options));

  const std::string name = options.name.empty() ? RandomName() : options.name;
  WV_TRY(const Scratch scratch, Scratch::Create(name));
  WV_TRY(const Keeper keeper, Keeper::Start({.places = {config->state_dir, config->cgroup_root},
                                             .ns = kNamespace,
                                             .name = name,
                                             .scratch = scratch.path()},
                                            image.held));
  WV_TRY_VOID(WriteFile(scratch.bundle() + "/config.json", spec));
  WV_TRY_VOID(WriteFile(scratch.bundle() + "/resolv.conf",
                        fmt::format("nameserver {}\n", runtime::kUserNameServer)));
  const std::string state_directory = runtime::StateDirectory(config->state_dir, kNamespace, name);
  WV_TRY(const auto sandbox, runtime::Sandbox::Start({.ns = kNamespace,
                                                      .id = name,
                                                      .bundle = scratch.bundle(),
                                                      .config = std::move(config),
                                                      .published = std::move(published)}));
  WV_TRY(const auto control,
         ServeControl(state_directory, name, scratch.bundle(), *sandbox, keeper.pid()));
  runtime::ContainerOptions container;
  container.id = name;
  container.bundle = scratch.bundle();
  container.rootfs = {RootMount(image, scratch)};
  container.io = WantedIo(options);
  auto code = RunContainer(options, *sandbox, std::move(signals), container);
  control->Close();
  const auto ended = sandbox->Shutdown();
  if (code && !ended) {
    return tl::unexpected(Error(ended.error().code(), ended.error().message()));
  }
  return code;
}

}  // namespace wyvern::cli
