#include "server/serve.h"

#include <fcntl.h>
#include <linux/prctl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "base/event_fd.h"
#include "base/log.h"
#include "base/log_journal.h"
#include "base/loop_thread.h"
#include "base/worker_thread.h"
#include "bootstrap/start.h"
#include "control/control_server.h"
#include "events/publisher.h"
#include "sandbox_api/register.h"
#include "server/host.h"
#include "task/register.h"
#include "ttrpc/server.h"

namespace wyvern::shim {

namespace {

constexpr std::chrono::milliseconds kFlushPatience{3000};
constexpr std::chrono::milliseconds kAnswerGrace{50};

std::string Env(const char* name) {
  const char* const value =
      getenv(name);  // NOLINT(concurrency-mt-unsafe): before there are threads
  return value == nullptr ? std::string() : std::string(value);
}

// The parts in the order they depend on each other. Never destroyed: the process ends by _exit when everything that outlives it is undone,
// because a call that hangs in a dead sandbox must not keep it alive.
class ServerProcess {
 public:
  ServerProcess(const Args& args, const RuntimeHooks& hooks) : args_(args), hooks_(hooks) {}

  Result<> Start();
  [[noreturn]] void Run();

 private:
  void EndIfUnknown();
  void StartControl(runtime::Sandbox& sandbox);
  void Stop();

  const Args& args_;
  const RuntimeHooks& hooks_;
  SocketFile socket_file_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<LoopThread> stdio_;
  std::unique_ptr<Publisher> events_;
  std::unique_ptr<ttrpc::BlockingPool> pool_;
  std::unique_ptr<TaskService> service_;
  std::unique_ptr<SandboxService> sandbox_api_;
  std::unique_ptr<ttrpc::Server> server_;
  std::unique_ptr<SignalFd> signals_;
  std::unique_ptr<ControlServer> control_;
};

Result<> ServerProcess::Start() {
  WV_TRY(SignalFd signals, SignalFd::Create({SIGTERM, SIGINT}));
  signals_ = std::make_unique<SignalFd>(std::move(signals));
  UniqueFd listener(kServeListenerFd);
  fcntl(kServeListenerFd, F_SETFD, FD_CLOEXEC);
  fcntl(kServeReadyFd, F_SETFD, FD_CLOEXEC);
  // Again, by this process: who connects then sees our pid as the peer's, not that of `start`.
  if (listen(listener.get(), SOMAXCONN) != 0) {
    return SysError("listen on the inherited socket");
  }
  socket_file_ = SocketFile(args_.socket);
  WV_TRY(loop_, EventLoop::Create());
  WV_TRY(stdio_, LoopThread::Start("stdio"));
  events_ = std::make_unique<Publisher>(PublisherOptions{
      .address = Env("TTRPC_ADDRESS").empty() ? args_.address + ".ttrpc" : Env("TTRPC_ADDRESS"),
      .ns = args_.ns});
  pool_ = std::make_unique<ttrpc::BlockingPool>("task");
  TaskServiceOptions options;
  options.ns = args_.ns;
  options.start_sandbox = hooks_.start_sandbox;
  options.on_sandbox = [this](runtime::Sandbox& sandbox) { StartControl(sandbox); };
  options.on_sandbox_ending = [this] {
    if (control_ != nullptr) {
      control_->Close();
    }
  };
  options.on_sandbox_gone = [this] { control_.reset(); };
  // A `start` that comes while we flush our events must not be sent to us.
  options.on_ending = [this] { socket_file_.Remove(); };
  options.on_shutdown = [this] { Stop(); };
  options.streams = StreamHub::Create(stdio_->loop());
  const auto streams = options.streams;
  service_ = std::make_unique<TaskService>(std::move(options), stdio_->loop(), *events_, *pool_);
  WV_TRY(server_, ttrpc::Server::Create(*loop_, {.name = "shim"}));
  RegisterTaskService(*server_, *service_, *pool_);
  sandbox_api_ = std::make_unique<SandboxService>(
      SandboxServiceOptions{.ns = args_.ns, .id = args_.id}, *service_, *pool_);
  RegisterSandboxService(*server_, *sandbox_api_, *pool_);
  streams->Register(*server_);
  WV_TRY_VOID(server_->Listen(std::move(listener), ttrpc::PeerIsRootOrSelf));
  WV_TRY_VOID(loop_->Add(signals_->fd(), EPOLLIN, [this](uint32_t) {
    while (const auto signal = signals_->Next()) {
      WV_INFO("signal {}: ending the sandbox", *signal);
      pool_->Run([this] { service_->Terminate(); });
    }
  }));
  (void)loop_->After(hooks_.connect_patience, [this] { EndIfUnknown(); });
  return {};
}

// containerd connects as soon as it has our address, and stays.
void ServerProcess::EndIfUnknown() {
  if (server_->connection_count() == 0 && service_->Unused()) {
    WV_WARN("nobody connected within {} ms: ending", hooks_.connect_patience.count());
    pool_->Run([this] { service_->Terminate(); });
  }
}

void ServerProcess::StartControl(runtime::Sandbox& sandbox) {
  const std::string path = hooks_.control_socket ? hooks_.control_socket(args_.ns, args_.id) : "";
  if (path.empty()) {
    return;
  }
  ControlOptions options;
  options.ns = args_.ns;
  options.sandbox_id = args_.id;
  options.version = hooks_.version;
  options.containers = [this] {
    std::vector<ControlContainer> containers;
    for (const ContainerSummary& summary : service_->Containers()) {
      containers.push_back(
          {summary.id, summary.bundle, summary.status, summary.pid, summary.created_at});
    }
    return containers;
  };
  options.metrics_socket =
      hooks_.metrics_socket ? hooks_.metrics_socket(args_.ns, args_.id) : std::string();
  auto control = ControlServer::Start(path, sandbox, std::move(options));
  if (!control) {
    // The container runs without it; only the CLI misses something.
    WV_WARN("control socket: {}", control.error().message());
    return;
  }
  control_ = *std::move(control);
}

// On a pool thread, once.
void ServerProcess::Stop() {
  if (!events_->Flush(kFlushPatience)) {
    WV_WARN("events are left that containerd did not take");
  }
  loop_->Post([this] {
    // The answer to Shutdown is on its way; nobody needs us after that.
    (void)loop_->After(kAnswerGrace, [this] { loop_->Stop(); });
  });
}

void ServerProcess::Run() {
  ReportReady("");
  if (auto result = loop_->Run(); !result) {
    WV_ERROR("event loop: {}", result.error().DebugString());
  }
  socket_file_.Remove();
  EndChildren();
  _exit(0);
}

}  // namespace

void UseLog(LogLevel configured, bool journal) {
  if (GetLogLevel() != LogLevel::kDebug) {
    SetLogLevel(configured);
  }
  if (journal) {
    if (auto opened = LogToJournal(); !opened) {
      WV_DEBUG("{}", opened.error().message());  // a host without systemd
    }
  }
}

Result<> Serve(const Args& args, const RuntimeHooks& hooks) {
  signal(SIGPIPE, SIG_IGN);
  SetLogComponent("shim");
  SetLogLevel(args.debug ? LogLevel::kDebug : LogLevel::kInfo);
  SetLogFields({{"ns", args.ns}, {"sandbox", args.id}});
  RaiseOomScore();
  if (Env("SCHED_CORE") == "1") {
    JoinSchedCore();
  }
  // Lives as long as the process.
  auto* const process = new ServerProcess(args, hooks);
  auto started = process->Start();
  if (!started) {
    ReportReady(started.error().message());  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks)
    return started;
  }
  process->Run();
}

}  // namespace wyvern::shim
