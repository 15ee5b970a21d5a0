// Create, and the life of the sandbox.
#include <algorithm>
#include <utility>

#include "base/cleanup.h"
#include "base/log.h"
#include "task/service_events.h"

namespace wyvern::shim {

namespace {

constexpr std::chrono::milliseconds kShutdownPatience{2000};  // containerd waits 3 s
constexpr std::chrono::milliseconds kExitPatience{2000};

std::vector<runtime::Mount> MountsOf(const task_pb::CreateTaskRequest& request) {
  std::vector<runtime::Mount> mounts;
  for (const auto& mount : request.rootfs()) {
    mounts.push_back({mount.type(),
                      mount.source(),
                      mount.target(),
                      {mount.options().begin(), mount.options().end()}});
  }
  return mounts;
}

// docker's client tells 127 and 126 by Go's texts of these errors, and only by them. A file that is missing elsewhere is no missing command.
Error AsDockerReads(Error error) {
  std::string text = error.message();
  if (text.find("executable") == std::string::npos) {
    return error;
  }
  for (const std::string_view phrase : {"No such file or directory", "Permission denied"}) {
    if (const size_t at = text.find(phrase); at != std::string::npos) {
      text[at] = static_cast<char>(text[at] + ('a' - 'A'));
    }
  }
  return Error(error.code(), std::move(text));
}

containerd::events::TaskCreate CreateEvent(const task_pb::CreateTaskRequest& request, pid_t pid) {
  containerd::events::TaskCreate event;
  event.set_container_id(request.id());
  event.set_bundle(request.bundle());
  *event.mutable_rootfs() = request.rootfs();
  event.mutable_io()->set_stdin(request.stdin());
  event.mutable_io()->set_stdout(request.stdout());
  event.mutable_io()->set_stderr(request.stderr());
  event.mutable_io()->set_terminal(request.terminal());
  event.set_checkpoint(request.checkpoint());
  event.set_pid(static_cast<uint32_t>(pid));
  return event;
}

}  // namespace

Result<std::shared_ptr<runtime::Sandbox>> TaskService::EnsureSandbox(const SandboxRequest& request,
                                                                     bool* created) {
  const std::lock_guard creating(create_mu_);
  {
    const std::lock_guard lock(mu_);
    if (sandbox_dead_) {
      return Fail(Code::kUnavailable, "the sandbox has died");
    }
    if (sandbox_ != nullptr) {
      return sandbox_;
    }
    if (by_sandbox_api_) {
      return Fail(Code::kFailedPrecondition,
                  "the sandbox was not started by StartSandbox yet, or it has been stopped");
    }
  }
  WV_TRY(std::shared_ptr<runtime::Sandbox> box, MakeSandbox(request));
  *created = true;
  return box;
}

Result<std::shared_ptr<runtime::Sandbox>> TaskService::MakeSandbox(const SandboxRequest& request) {
  {
    const std::lock_guard lock(mu_);
    if (shutting_down_) {
      return Fail(Code::kUnavailable, "the shim is shutting down");
    }
  }
  WV_TRY(std::shared_ptr<runtime::Sandbox> box, options_.start_sandbox(request));
  box->OnDeath([this](const std::string& reason) { OnSandboxDeath(reason); });
  box->OnOom([this](const std::string& id) {
    containerd::events::TaskOOM event;
    event.set_container_id(id);
    Publish("/tasks/oom", event);
  });
  {
    const std::lock_guard lock(mu_);
    sandbox_ = box;
  }
  if (options_.on_sandbox) {
    options_.on_sandbox(*box);
  }
  return box;
}

Result<> TaskService::UseSandboxApi() {
  const std::lock_guard lock(mu_);
  if (sandbox_ != nullptr || !creating_.empty() || !containers_.empty() || shutting_down_) {
    return Fail(Code::kFailedPrecondition, "the shim has a sandbox by its tasks, or is ending");
  }
  by_sandbox_api_ = true;
  return {};
}

Result<std::shared_ptr<runtime::Sandbox>> TaskService::StartSandbox(SandboxRequest request) {
  request.cancel = stop_start_.get_token();
  const std::lock_guard creating(create_mu_);
  if (request.cancel.stop_requested()) {
    return Fail(Code::kUnavailable, "the sandbox has been stopped");
  }
  return MakeSandbox(request);
}

void TaskService::StopSandbox() {
  (void)stop_start_.request_stop();  // DropSandbox waits for it
  DropSandbox();
}

bool TaskService::Unused() {
  const std::lock_guard lock(mu_);
  return sandbox_ == nullptr && containers_.empty() && creating_.empty() && !by_sandbox_api_;
}

void TaskService::DropSandbox() {
  const std::lock_guard creating(create_mu_);
  std::shared_ptr<runtime::Sandbox> box;
  {
    const std::lock_guard lock(mu_);
    box = sandbox_;
  }
  if (box == nullptr) {
    return;
  }
  if (options_.on_sandbox_ending) {
    options_.on_sandbox_ending();
  }
  if (auto down = box->Shutdown(); !down) {
    WV_ERROR("ending the sandbox: {}", down.error().DebugString());
  }
  if (options_.on_sandbox_gone) {
    options_.on_sandbox_gone();
  }
  const std::lock_guard lock(mu_);
  sandbox_.reset();
  sandbox_dead_ = false;
}

Result<task_pb::CreateTaskResponse> TaskService::Create(const task_pb::CreateTaskRequest& request) {
  if (request.id().empty() || request.bundle().empty()) {
    return Fail(Code::kInvalidArgument, "Create without an id or a bundle");
  }
  if (!request.checkpoint().empty()) {
    return Fail(Code::kUnimplemented, "restoring from a checkpoint is not supported");
  }
  WV_TRY(const CreateOptions options, ParseCreateOptions(request.options()));
  {
    const std::lock_guard lock(mu_);
    if (shutting_down_) {
      return Fail(Code::kUnavailable, "the shim is shutting down");
    }
    if (containers_.contains(request.id()) || !creating_.insert(request.id()).second) {
      return Fail(Code::kAlreadyExists, "container " + request.id() + " exists already");
    }
  }
  const Cleanup created([&] {
    const std::lock_guard lock(mu_);
    creating_.erase(request.id());
  });
  WV_TRY(const ContainerPtr container, CreateInSandbox(request, options));
  task_pb::CreateTaskResponse response;
  response.set_pid(static_cast<uint32_t>(container->init->pid));
  return response;
}

Result<TaskService::ContainerPtr> TaskService::CreateInSandbox(
    const task_pb::CreateTaskRequest& request, const CreateOptions& options) {
  const StdioSpec spec{options_.ns,      request.id(),     request.stdin(),
                       request.stdout(), request.stderr(), request.terminal()};
  WV_TRY(std::shared_ptr<ProcessStdio> stdio, ProcessStdio::Open(loop_, spec, options_.streams));
  bool sandbox_is_new = false;
  Cleanup undo([&] {
    if (sandbox_is_new) {
      DropSandbox();
    }
  });
  WV_TRY(const auto box, EnsureSandbox({options_.ns, request.id(), request.bundle(), options,
                                        stop_start_.get_token()},
                                       &sandbox_is_new));
  runtime::ContainerOptions wanted;
  wanted.id = request.id();
  wanted.bundle = request.bundle();
  wanted.rootfs = MountsOf(request);
  wanted.io = WantedIo(spec);
  WV_TRY(runtime::ProcessIo io, box->CreateContainer(wanted).map_error(AsDockerReads));
  WV_TRY(const runtime::ProcessState state, box->State(request.id(), ""));
  undo.Cancel();
  stdio->AwaitClient();
  // runc's shim has it there, too. For `delete` after our death: what containerd then publishes names the pid.
  if (auto written = WriteFile(request.bundle() + "/init.pid", std::to_string(state.pid));
      !written) {
    WV_WARN("{}", written.error().message());
  }

  auto container = std::make_shared<Container>(request.id(), request.bundle());
  auto init = std::make_shared<Process>("", spec);
  init->pid = state.pid;
  init->stdio = std::move(stdio);
  init->stdio->Attach(std::move(io));
  container->init = init;
  {
    const std::lock_guard lock(mu_);
    containers_[container->id] = container;
    Publish("/tasks/create", CreateEvent(request, init->pid));
  }
  pool_.Run([this, container, init] { AwaitExit(container, init); });
  return container;
}

void TaskService::OnSandboxDeath(const std::string& reason) {
  WV_ERROR("the sandbox died: {}", reason);
  const std::lock_guard lock(mu_);
  sandbox_dead_ = true;
  changed_.notify_all();
}

bool TaskService::BeginEndingLocked() {
  if (std::exchange(shutting_down_, true)) {
    return false;
  }
  if (options_.on_ending) {
    options_.on_ending();
  }
  return true;
}

void TaskService::EndSandbox() {
  DropSandbox();
  std::unique_lock lock(mu_);
  sandbox_ended_ = true;
  changed_.notify_all();
  // The exits of what still ran are published before we go.
  changed_.wait_for(lock, kExitPatience, [this] {
    return std::all_of(containers_.begin(), containers_.end(),
                       [](const auto& entry) { return entry.second->init->exit.has_value(); });
  });
  lock.unlock();
  options_.on_shutdown();
}

Result<pb::Empty> TaskService::Shutdown(const task_pb::ShutdownRequest& /*request*/) {
  std::unique_lock lock(mu_);
  if (shutting_down_ || by_sandbox_api_) {
    return pb::Empty();
  }
  if (!containers_.empty() || !creating_.empty()) {
    // A pod's shim is asked after each of its containers. But if all are being deleted nobody will ask again.
    shutdown_when_empty_ = creating_.empty() && std::all_of(containers_.begin(), containers_.end(),
                                                            [](const auto& entry) {
                                                              return entry.second->init->deleting;
                                                            });
    return pb::Empty();
  }
  BeginEndingLocked();
  pool_.Run([this] { EndSandbox(); });
  // Whoever gets the answer may look for leftovers at once.
  changed_.wait_for(lock, kShutdownPatience, [this] { return sandbox_ended_; });
  return pb::Empty();
}

void TaskService::Terminate() {
  {
    const std::lock_guard lock(mu_);
    if (!BeginEndingLocked()) {
      return;
    }
  }
  (void)stop_start_.request_stop();  // DropSandbox waits for it
  EndSandbox();
}

}  // namespace wyvern::shim
