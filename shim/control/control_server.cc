#include "control/control_server.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/loop_thread.h"
#include "base/unix_socket.h"
#include "control/exec_spec.h"
#include "control/exec_stream.h"
#include "control/metrics_wire.h"
#include "control/observer.h"
#include "control/size_messages.h"
#include "ttrpc/blocking.h"
#include "ttrpc/server.h"

namespace wyvern::shim {

namespace pb = wyvern::control::v1;

namespace {

constexpr const char* kService = "wyvern.control.v1.Control";
constexpr size_t kMaxSpec = 16 << 20;

const char* StatusName(runtime::ProcessStatus status) {
  switch (status) {
    case runtime::ProcessStatus::kCreated:
      return "created";
    case runtime::ProcessStatus::kRunning:
      return "running";
    case runtime::ProcessStatus::kStopped:
      return "stopped";
    case runtime::ProcessStatus::kPaused:
      return "paused";
  }
  return "unknown";
}

int64_t NanosecondsSinceEpoch(std::chrono::system_clock::time_point at) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count();
}

}  // namespace

class ControlServer::Impl {
 public:
  Impl(std::string path, runtime::Sandbox& sandbox, ControlOptions options)
      : path_(std::move(path)),
        sandbox_(sandbox),
        options_(std::move(options)),
        observer_(sandbox, {options_.ns, options_.sandbox_id}, options_.processes) {}

  ~Impl() {
    Close();
    pool_.reset();
  }

  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  Result<> Start();
  void Close();

 private:
  using Key = std::pair<std::string, std::string>;  // container, exec

  struct Exec {
    std::string container;  // as the sandbox names it: empty for the guest itself
    bool terminal = false;
    ttrpc::CallContext client;  // the call it came by; once it is attached, its stream
    bool abandoned = false;
  };

  void Register();
  template <typename Req, typename Resp>
  void Pooled(const char* method, Result<Resp> (Impl::*function)(const Req&));

  Result<pb::HelloResponse> Hello(const pb::HelloRequest& request);
  Result<pb::ExecResponse> AddExec(const pb::ExecRequest& request,
                                   const ttrpc::CallContext& client);
  Result<pb::WaitExecResponse> WaitExec(const pb::ExecRef& request);
  Result<pb::Empty> ResizeExec(const pb::ResizeExecRequest& request);
  Result<pb::Empty> SignalExec(const pb::SignalExecRequest& request);
  Result<pb::ConsoleLogResponse> ConsoleLog(const pb::Empty& request);
  Result<pb::EffectiveConfigResponse> EffectiveConfig(const pb::Empty& request);
  Result<pb::MetricsResponse> Metrics(const pb::Empty& request);
  Result<pb::TimelineResponse> Timeline(const pb::Empty& request);
  Result<pb::SizeResponse> Resize(const pb::ResizeRequest& request);
  Result<pb::SizeResponse> Size(const pb::Empty& request);
  Result<pb::DirectVolumeResponse> DirectVolume(const pb::DirectVolumeRequest& request);
  ttrpc::RawStream::Receiver Attach(const ttrpc::CallContext& client, ttrpc::RawStream stream);
  std::shared_ptr<ExecStream> OpenStream(const pb::StreamData& first,
                                         const ttrpc::CallContext& client,
                                         const ttrpc::RawStream& stream);
  void OnDisconnect();
  void Abandon(const Key& key);  // on the loop
  void EndAbandoned(const Key& key);

  Result<Exec> CheckOurs(const std::string& container_id, const std::string& exec_id);
  Result<std::string> BundleOf(const std::string& container_id) const;

  const std::string path_;
  runtime::Sandbox& sandbox_;
  const ControlOptions options_;
  std::unique_ptr<LoopThread> thread_;
  std::unique_ptr<ttrpc::BlockingPool> pool_;
  std::unique_ptr<ttrpc::Server> server_;  // used and destroyed on the loop's thread
  Observer observer_;

  std::mutex mu_;
  uint64_t next_exec_ = 1;                        // guarded by mu_
  std::map<Key, Exec> execs_;                     // guarded by mu_
  std::map<Key, runtime::ProcessIo> unattached_;  // guarded by mu_
};

Result<> ControlServer::Impl::Start() {
  if (unlink(path_.c_str()) != 0 && errno != ENOENT) {
    return SysError("unlink " + path_);
  }
  WV_TRY(UniqueFd listener, ListenUnix(path_, 0600));
  WV_TRY(thread_, LoopThread::Start("control"));
  pool_ = std::make_unique<ttrpc::BlockingPool>("control");
  Result<> listening;
  thread_->Call([&] {
    auto server = ttrpc::Server::Create(
        thread_->loop(),
        {.name = "control", .on_disconnect = [this](size_t /*remaining*/) { OnDisconnect(); }});
    if (!server) {
      listening = tl::unexpected(std::move(server).error());
      return;
    }
    server_ = *std::move(server);
    Register();
    listening = server_->Listen(std::move(listener), ttrpc::PeerIsRootOrSelf);
  });
  if (listening && !options_.metrics_socket.empty()) {
    observer_.Listen(options_.metrics_socket);
  }
  return listening;
}

void ControlServer::Impl::Close() {
  if (thread_ == nullptr) {
    return;
  }
  observer_.CloseSocket();
  thread_->Call([this] {
    observer_.EndWatchers(/*all=*/true);
    server_.reset();
  });
  thread_.reset();
  unlink(path_.c_str());
}

template <typename Req, typename Resp>
void ControlServer::Impl::Pooled(const char* method, Result<Resp> (Impl::*function)(const Req&)) {
  server_->RegisterUnary<Req, Resp>(
      kService, method,
      ttrpc::Blocking<Req, Resp>(*pool_,
                                 [this, function](const Req& request, const ttrpc::CallContext&) {
                                   return (this->*function)(request);
                                 }));
}

void ControlServer::Impl::Register() {
  Pooled("Hello", &Impl::Hello);
  server_->RegisterUnary<pb::ExecRequest, pb::ExecResponse>(
      kService, "Exec",
      ttrpc::Blocking<pb::ExecRequest, pb::ExecResponse>(
          *pool_, [this](const pb::ExecRequest& request, const ttrpc::CallContext& client) {
            return AddExec(request, client);
          }));
  Pooled("WaitExec", &Impl::WaitExec);
  Pooled("ResizeExec", &Impl::ResizeExec);
  Pooled("SignalExec", &Impl::SignalExec);
  Pooled("ConsoleLog", &Impl::ConsoleLog);
  Pooled("EffectiveConfig", &Impl::EffectiveConfig);
  Pooled("Metrics", &Impl::Metrics);
  Pooled("Timeline", &Impl::Timeline);
  Pooled("Resize", &Impl::Resize);
  Pooled("Size", &Impl::Size);
  Pooled("DirectVolume", &Impl::DirectVolume);
  server_->RegisterServerStream<pb::WatchEventsRequest, pb::SandboxEvent>(
      kService, "WatchEvents",
      [this](const pb::WatchEventsRequest& request, const ttrpc::CallContext&,
             ttrpc::ServerStream<pb::SandboxEvent> stream) {
        observer_.Watch(request, std::move(stream));
      });
  server_->RegisterRawBidi(kService, "Stream",
                           [this](const ttrpc::CallContext& client, ttrpc::RawStream stream) {
                             return Attach(client, std::move(stream));
                           });
}

Result<pb::HelloResponse> ControlServer::Impl::Hello(const pb::HelloRequest& request) {
  if (request.protocol() != kProtocol) {
    return Fail(Code::kFailedPrecondition, "this sandbox speaks control protocol " +
                                               std::to_string(kProtocol) + ", not " +
                                               std::to_string(request.protocol()) +
                                               ": use the wyvern of version " + options_.version);
  }
  pb::HelloResponse response;
  response.set_protocol(kProtocol);
  response.set_version(options_.version);
  response.set_sandbox_id(options_.sandbox_id);
  response.set_ns(options_.ns);
  response.set_kernel_release(sandbox_.KernelRelease());
  response.set_metrics_socket(options_.metrics_socket);
  for (const ControlContainer& container : options_.containers()) {
    auto& info = *response.add_containers();
    info.set_id(container.id);
    info.set_status(StatusName(container.status));
    info.set_anchor_pid(static_cast<uint32_t>(container.pid));
    info.set_bundle(container.bundle);
    info.set_created_at_ns(NanosecondsSinceEpoch(container.created_at));
  }
  return response;
}

Result<std::string> ControlServer::Impl::BundleOf(const std::string& container_id) const {
  for (const ControlContainer& container : options_.containers()) {
    if (container.id == container_id) {
      return container.bundle;
    }
  }
  return Fail(Code::kNotFound, "container " + container_id + " not found");
}

Result<pb::ExecResponse> ControlServer::Impl::AddExec(const pb::ExecRequest& request,
                                                      const ttrpc::CallContext& client) {
  const std::string container = request.guest() ? std::string() : request.container_id();
  std::string bundle;
  std::string spec;
  if (!request.guest()) {
    WV_TRY(bundle, BundleOf(container));
    WV_TRY(spec, ReadFile(bundle + "/config.json", kMaxSpec));
  }
  const auto read_users = [&bundle](const std::string& root) {
    return runtime::ReadUserFiles({root.starts_with('/') ? root : bundle + "/" + root});
  };
  WV_TRY(const std::string process, MakeExecSpec(spec, request, read_users));
  Key key{request.container_id(), ""};
  {
    const std::lock_guard lock(mu_);
    key.second = "wyvern-" + std::to_string(getpid()) + "-" + std::to_string(next_exec_++);
  }
  runtime::IoWanted io;
  io.terminal = request.terminal();
  io.stdin_stream = true;
  io.stdout_stream = true;
  io.stderr_stream = !request.terminal();
  io.rows = request.rows();
  io.columns = request.columns();
  WV_TRY(runtime::ProcessIo streams, sandbox_.AddExec(container, key.second, process, io));
  if (auto started = sandbox_.StartProcess(container, key.second); !started) {
    (void)sandbox_.DeleteProcess(container, key.second);
    return tl::unexpected(std::move(started).error());
  }
  {
    const std::lock_guard lock(mu_);
    execs_[key] = Exec{container, request.terminal(), client};
    unattached_[key] = std::move(streams);
  }
  if (!client.connected()) {
    EndAbandoned(key);  // OnDisconnect may not have seen it
  }
  pb::ExecResponse response;
  response.set_exec_id(key.second);
  return response;
}

// Only what came by this socket can be waited for, signalled and deleted here: containerd's execs are containerd's.
Result<ControlServer::Impl::Exec> ControlServer::Impl::CheckOurs(const std::string& container_id,
                                                                 const std::string& exec_id) {
  const std::lock_guard lock(mu_);
  const auto found = execs_.find({container_id, exec_id});
  if (found == execs_.end()) {
    return Fail(Code::kNotFound, "exec " + exec_id + " not found");
  }
  return found->second;
}

Result<pb::WaitExecResponse> ControlServer::Impl::WaitExec(const pb::ExecRef& request) {
  WV_TRY(const Exec exec, CheckOurs(request.container_id(), request.exec_id()));
  WV_TRY(const runtime::ExitInfo exit, sandbox_.Wait(exec.container, request.exec_id()));
  {
    const std::lock_guard lock(mu_);
    execs_.erase({request.container_id(), request.exec_id()});
    unattached_.erase({request.container_id(), request.exec_id()});
  }
  if (auto deleted = sandbox_.DeleteProcess(exec.container, request.exec_id()); !deleted) {
    WV_DEBUG("control: {}", deleted.error().message());
  }
  pb::WaitExecResponse response;
  response.set_exit_status(exit.status);
  return response;
}

Result<pb::Empty> ControlServer::Impl::ResizeExec(const pb::ResizeExecRequest& request) {
  WV_TRY(const Exec exec, CheckOurs(request.container_id(), request.exec_id()));
  WV_TRY_VOID(sandbox_.ResizeTerminal(exec.container, request.exec_id(), request.rows(),
                                      request.columns()));
  return pb::Empty();
}

Result<pb::Empty> ControlServer::Impl::SignalExec(const pb::SignalExecRequest& request) {
  WV_TRY(const Exec exec, CheckOurs(request.container_id(), request.exec_id()));
  WV_TRY_VOID(sandbox_.Signal(exec.container, request.exec_id(), static_cast<int>(request.signal()),
                              false));
  return pb::Empty();
}

Result<pb::ConsoleLogResponse> ControlServer::Impl::ConsoleLog(const pb::Empty& /*request*/) {
  pb::ConsoleLogResponse response;
  runtime::ConsoleTail console = sandbox_.ConsoleLog();
  response.set_text(std::move(console.text));
  response.set_dropped(console.dropped);
  return response;
}

Result<pb::EffectiveConfigResponse> ControlServer::Impl::EffectiveConfig(
    const pb::Empty& /*request*/) {
  pb::EffectiveConfigResponse response;
  response.set_yaml(sandbox_.EffectiveConfig());
  return response;
}

Result<pb::MetricsResponse> ControlServer::Impl::Metrics(const pb::Empty& /*request*/) {
  return ToMessage(observer_.Measure());
}

Result<pb::TimelineResponse> ControlServer::Impl::Timeline(const pb::Empty& /*request*/) {
  pb::TimelineResponse response;
  for (const runtime::TimelinePoint& point : sandbox_.Timeline()) {
    auto& out = *response.add_points();
    out.set_name(point.name);
    out.set_start_ns(static_cast<uint64_t>(std::max<int64_t>(point.start_ns, 0)));
    out.set_end_ns(static_cast<uint64_t>(std::max<int64_t>(point.end_ns, 0)));
  }
  return response;
}

Result<pb::SizeResponse> ControlServer::Impl::Resize(const pb::ResizeRequest& request) {
  return sandbox_.Resize(WishOf(request)).map([](const auto& size) { return ToMessage(size); });
}

Result<pb::SizeResponse> ControlServer::Impl::Size(const pb::Empty& /*request*/) {
  return sandbox_.Size().map([](const auto& size) { return ToMessage(size); });
}

Result<pb::DirectVolumeResponse> ControlServer::Impl::DirectVolume(
    const pb::DirectVolumeRequest& request) {
  WV_TRY(const runtime::VolumeUsage usage,
         sandbox_.DirectVolume(request.path(), request.grow_to()));
  pb::DirectVolumeResponse response;
  response.set_bytes(usage.bytes);
  response.set_bytes_available(usage.bytes_available);
  response.set_bytes_used(usage.bytes_used);
  response.set_inodes(usage.inodes);
  response.set_inodes_available(usage.inodes_available);
  response.set_inodes_used(usage.inodes_used);
  return response;
}

std::shared_ptr<ExecStream> ControlServer::Impl::OpenStream(const pb::StreamData& first,
                                                            const ttrpc::CallContext& client,
                                                            const ttrpc::RawStream& stream) {
  runtime::ProcessIo io;
  {
    const std::lock_guard lock(mu_);
    const auto found = unattached_.find({first.container_id(), first.exec_id()});
    if (found == unattached_.end()) {
      stream.Fail(Error(Code::kNotFound, "no exec " + first.exec_id() + " waits for its streams"));
      return nullptr;
    }
    io = std::move(found->second);
    unattached_.erase(found);
    if (const auto entry = execs_.find({first.container_id(), first.exec_id()});
        entry != execs_.end()) {
      entry->second.client = client;
    }
  }
  auto exec =
      std::make_shared<ExecStream>(thread_->loop(), std::move(io), first.stream() == 1, stream);
  exec->Start();
  return exec;
}

// A connection is gone, and with it whoever would have attached to its execs or asked for their exit status.
void ControlServer::Impl::OnDisconnect() {
  observer_.EndWatchers(/*all=*/false);
  std::vector<Key> orphans;
  {
    const std::lock_guard lock(mu_);
    for (const auto& [key, exec] : execs_) {
      if (!exec.client.connected()) {
        orphans.push_back(key);
      }
    }
  }
  for (const Key& key : orphans) {
    Abandon(key);
  }
}

void ControlServer::Impl::Abandon(const Key& key) {
  pool_->Run([this, key] { EndAbandoned(key); });
}

// Its client is gone without having heard of its exit: a terminal that is hung up, to the process; streams that have ended if none attached;
// nobody will ask for its exit status. Idempotent.
void ControlServer::Impl::EndAbandoned(const Key& key) {
  Exec exec;
  {
    const std::lock_guard lock(mu_);
    const auto found = execs_.find(key);
    if (found == execs_.end() || std::exchange(found->second.abandoned, true)) {
      return;
    }
    exec = found->second;
    unattached_.erase(key);
  }
  if (exec.terminal) {
    (void)sandbox_.Signal(exec.container, key.second, SIGHUP, false);
  }
  pb::ExecRef ref;
  ref.set_container_id(key.first);
  ref.set_exec_id(key.second);
  (void)WaitExec(ref);
}

ttrpc::RawStream::Receiver ControlServer::Impl::Attach(const ttrpc::CallContext& client,
                                                       ttrpc::RawStream stream) {
  struct Attached {
    std::shared_ptr<ExecStream> exec;
    Key key;
  };

  return [this, client, stream = std::move(stream),
          to = std::make_shared<Attached>()](const std::optional<std::string>& message) {
    if (!message) {
      if (to->exec == nullptr) {
        return;
      }
      if (stream.alive()) {
        // Half-closed: the end of the input; the output goes on.
        pb::StreamData end;
        end.set_eof(true);
        to->exec->OnMessage(end);
        return;
      }
      if (!to->exec->finished()) {
        Abandon(to->key);
      }
      to->exec->Detach();
      return;
    }
    pb::StreamData data;
    if (!data.ParseFromString(*message)) {
      stream.Fail(Error(Code::kInvalidArgument, "malformed message"));
    } else if (to->exec != nullptr) {
      to->exec->OnMessage(data);
    } else {
      to->key = {data.container_id(), data.exec_id()};
      to->exec = OpenStream(data, client, stream);
    }
  };
}

ControlServer::ControlServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ControlServer::~ControlServer() = default;

Result<std::unique_ptr<ControlServer>> ControlServer::Start(const std::string& path,
                                                            runtime::Sandbox& sandbox,
                                                            ControlOptions options) {
  auto impl = std::make_unique<Impl>(path, sandbox, std::move(options));
  WV_TRY_VOID(impl->Start());
  return std::unique_ptr<ControlServer>(new ControlServer(std::move(impl)));
}

void ControlServer::Close() {
  impl_->Close();
}

}  // namespace wyvern::shim
