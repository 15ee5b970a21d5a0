// Containers come and go.
#include <fmt/format.h>

#include <csignal>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/plain_text.h"
#include "container/hooks.h"
#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {
namespace {

constexpr std::chrono::milliseconds kDeleteRetry{100};
constexpr std::chrono::seconds kPoststopAtShutdown{5};  // for each

StdioWanted ToWanted(const IoWanted& io) {
  StdioWanted out;
  out.terminal = io.terminal;
  out.in = io.stdin_stream;
  out.out = io.stdout_stream;
  out.err = io.stderr_stream;
  out.rows = io.rows;
  out.columns = io.columns;
  return out;
}

ProcessIo ToIo(StdioStreams streams) {
  return {std::move(streams.in), std::move(streams.out), std::move(streams.err)};
}

std::vector<MountEntry> ToEntries(const std::vector<Mount>& mounts) {
  std::vector<MountEntry> out;
  out.reserve(mounts.size());
  for (const Mount& mount : mounts) {
    out.push_back({mount.type, mount.source, mount.target, mount.options});
  }
  return out;
}

}  // namespace

Result<SandboxImpl::ContainerPtr> SandboxImpl::AddContainer(const ContainerOptions& options) {
  const std::string& id = options.id;
  WV_TRY_VOID(oci::CheckId(id));
  WV_TRY_VOID(CheckAlive());
  WV_TRY_VOID(CheckPod());
  auto container = std::make_shared<Container>();
  container->id = id;
  container->stands_for_pod = facts_.stands_for_pod && options.bundle == options_.bundle;
  const std::lock_guard lock(mu_);
  if (!containers_.emplace(id, container).second) {
    return Fail(Code::kAlreadyExists, fmt::format("container {} exists already", id));
  }
  return container;
}

HookState SandboxImpl::HookStateOf(const Container& container, const char* status,
                                   pid_t pid) const {
  HookState state;
  state.id = container.id;
  state.status = status;
  state.pid = pid;
  state.bundle = container.host->bundle();
  state.annotations = container.host->facts().annotations;
  return state;
}

// Before the guest makes the container: what they do to its root counts for what the guest finds there.
Result<> SandboxImpl::RunHooksOf(const ContainerPtr& container) {
  const oci::HostHooks& hooks = container->host->facts().hooks;
  container->hooked = true;
  if (!hooks.poststop.empty()) {
    WV_TRY_VOID(state_->Update(
        "hooks", [&](SandboxRecord& record) { record.containers[container->id].hooked = true; }));
  }
  return RunCreateHooks(hooks, HookStateOf(*container, "creating", container->anchor_pid),
                        stop_hooks_.get_token());
}

// Once, and in a sandbox that is shutting down, too: what the create hooks made (a network) is nobody else's to undo.
void SandboxImpl::RunPoststop(const ContainerPtr& container) {
  if (!std::exchange(container->hooked, false)) {
    return;
  }
  const std::vector<oci::Hook>& hooks = container->host->facts().hooks.poststop;
  if (hooks.empty()) {
    return;
  }
  auto told = state_->Update("poststop", [&](SandboxRecord& record) {
    if (const auto it = record.containers.find(container->id); it != record.containers.end()) {
      it->second.hooked = false;
    }
  });
  if (!told.has_value()) {
    WV_WARN("container {}: {}", container->id, told.error().message());
  }
  const bool stopping = stop_hooks_.stop_requested();
  RunPoststopHooks(hooks, HookStateOf(*container, "stopped", 0),
                   stopping ? std::stop_token() : stop_hooks_.get_token(),
                   stopping ? kPoststopAtShutdown : kMaxHookTimeout);
}

Result<ProcessIo> SandboxImpl::CreateContainer(const ContainerOptions& options) {
  const Busy busy(*this);
  WV_TRY(const ContainerPtr container, AddContainer(options));
  const int64_t start = timeline_.Now();
  auto io = MakeContainer(container, options);
  if (!io.has_value()) {
    {
      const std::lock_guard lock(mu_);
      containers_.erase(options.id);
    }
    ReduceHostLimits();
    ShrinkAfterExit();
    return tl::unexpected(std::move(io).error().WithContext("container " + options.id));
  }
  timeline_.Add("container-create", start);
  AdjustOomScore();
  return io;
}

Result<ProcessIo> SandboxImpl::MakeContainer(const ContainerPtr& container,
                                             const ContainerOptions& options) {
  HostContainer::Options host;
  host.id = options.id;
  host.bundle = options.bundle;
  host.rootfs = ToEntries(options.rootfs);
  host.index = next_index_++;
  host.terminal = options.io.terminal;
  host.stands_for_pod = container->stands_for_pod;
  HostEnvironment environment{machine_.get(), agent_.get(),    state_.get(),     &config_,
                              network_,       options_.bundle, disk_filesystems_};
  environment.volumes = volumes_.get();
  environment.sockets = sockets_.get();
  environment.exports = &shared_exports_;
  environment.anchor = anchor_;
  environment.guest_hooks = &guest_hooks_;
  if (facts_.stands_for_pod) {
    environment.pod = &pod_namespaces_;
    environment.shm_source = facts_.shm_source;
    environment.pod_files = &facts_.pod_files;
    environment.pod_ids = &facts_.ids;
  }
  const int64_t start = timeline_.Now();
  WV_TRY(container->host, HostContainer::Prepare(environment, std::move(host)));
  container->anchor_pid = container->host->anchor().pid();
  timeline_.Add("rootfs", start);
  const bool in_guest = !container->stands_for_pod;
  auto made = [&]() -> Result<StdioStreams> {
    WV_TRY_VOID(GrantHostLimits(container));
    WV_TRY_VOID(Grow());
    WV_TRY_VOID(RunHooksOf(container));
    return in_guest ? CreateInGuest(container, options.io) : PauseStreams(options.io);
  }();
  if (!made.has_value()) {
    UndoCreate(container, /*in_guest=*/false);  // the agent undoes what it could not make
    return tl::unexpected(std::move(made).error());
  }
  pod_namespaces_.Add(container->anchor_pid, container->id, container->stands_for_pod);
  auto init = std::make_shared<Process>();
  init->terminal = options.io.terminal;
  bool dead = false;
  bool late = false;
  {
    const std::lock_guard lock(mu_);
    dead = death_.has_value() || stopping_;
    late = pod_ends_;
    container->processes.emplace("", init);
    container->created = !dead && !late;
  }
  if (dead || late) {
    UndoCreate(container, in_guest && !dead);
    return (dead ? CheckAlive() : CheckPod()).map([] { return ProcessIo(); });
  }
  WatchAnchor(container);
  if (in_guest) {
    AwaitExit(container, "", init);
  }
  return ToIo(std::move(*made));
}

Result<StdioStreams> SandboxImpl::CreateInGuest(const ContainerPtr& container, const IoWanted& io) {
  StdioWanted wanted = ToWanted(io);
  if (wanted.rows == 0 || wanted.columns == 0) {
    wanted.rows = container->host->facts().rows;
    wanted.columns = container->host->facts().columns;
  }
  WV_TRY(StdioStreams streams, agent_->OpenStdio(wanted));
  const int64_t start = timeline_.Now();
  WV_TRY_VOID(
      agent_->CreateContainer(container->id, container->host->guest_config(), streams.message));
  timeline_.Add("crun-create", start);
  return streams;
}

void SandboxImpl::UndoCreate(const ContainerPtr& container, bool in_guest) {
  bool obeys = true;
  if (in_guest) {
    const auto deleted = KillAndDeleteInGuest(container->id);
    obeys = deleted.has_value() || deleted.error().code() == Code::kNotFound;
    if (!obeys) {
      WV_WARN("container {}: deleting it in the guest: {}", container->id,
              PlainText(deleted.error().message(), kMaxGuestError));
    }
  }
  static_cast<void>(ReleaseContainer(container, obeys));
  RunPoststop(container);
}

// The guest lets go first, unless it obeys nobody; then the host's things are undone.
Result<> SandboxImpl::ReleaseContainer(const ContainerPtr& container, bool guest_obeys) {
  EndAnchor(container);
  const bool alive = CheckAlive().has_value();
  if (alive && guest_obeys) {
    const std::vector<std::string>& names = container->host->TakeExportNames();
    for (auto it = names.rbegin(); it != names.rend(); ++it) {
      if (auto detached = agent_->DetachShare(*it); !detached.has_value()) {
        WV_WARN("container {}: detaching {} in the guest: {}", container->id, *it,
                PlainText(detached.error().message(), kMaxGuestError));
        if (detached.error().code() == Code::kDeadlineExceeded) {
          break;  // the others would take as long
        }
      }
    }
  }
  if (!alive) {
    bool dead = false;
    {
      const std::lock_guard lock(mu_);
      dead = death_.has_value();
    }
    // What the VMM holds is free when it has ended. Else Shutdown is on its way, which ends it after what others write is on the host.
    if (dead) {
      machine_->End();
    }
    return container->host->Release(GuestState::kGone);
  }
  return container->host->Release(guest_obeys ? GuestState::kObeys : GuestState::kDisobeys);
}

// For an init that nobody waits for yet: the agent deletes only what has ended.
Result<> SandboxImpl::KillAndDeleteInGuest(const std::string& id) {
  auto killed = agent_->SignalProcess(id, "", SIGKILL, true, backend_.patience.kill_answer);
  if (!killed.has_value() && killed.error().code() != Code::kNotFound) {
    return killed;
  }
  const auto deadline = std::chrono::steady_clock::now() + backend_.patience.kill_exit;
  while (true) {
    auto deleted = agent_->DeleteProcess(id, "");
    if (deleted.has_value() || deleted.error().code() != Code::kFailedPrecondition ||
        std::chrono::steady_clock::now() > deadline) {
      return deleted;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

Result<ProcessIo> SandboxImpl::AddExec(const std::string& id, const std::string& exec_id,
                                       const std::string& process_json, const IoWanted& io) {
  WV_TRY_VOID(oci::CheckId(exec_id));
  WV_TRY_VOID(CheckAlive());
  if (id.empty()) {
    WV_TRY_VOID(CheckGuestExec());
  }
  std::vector<std::string> notes;
  WV_TRY_CONTEXT(const std::string process_for_guest,
                 oci::TranslateProcess(process_json, io.terminal, &notes), "exec " + exec_id);
  for (const std::string& note : notes) {
    WV_INFO("container {}: exec {}: {}", id, exec_id, note);
  }
  WV_TRY(const ContainerPtr container, FindContainer(id));
  if (container->stands_for_pod) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("container {} stands for its pod and runs nothing: exec in another "
                            "container of the pod",
                            id));
  }
  auto process = std::make_shared<Process>();
  process->terminal = io.terminal;
  {
    const std::lock_guard lock(mu_);
    if (container->Stopped()) {
      return Fail(Code::kFailedPrecondition, fmt::format("container {} has stopped", id));
    }
    if (!container->processes.emplace(exec_id, process).second) {
      return Fail(Code::kAlreadyExists, fmt::format("exec {} exists already", exec_id));
    }
  }
  auto add = [&]() -> Result<StdioStreams> {
    WV_TRY(StdioStreams streams, agent_->OpenStdio(ToWanted(io)));
    WV_TRY_VOID(AddProcess(id, exec_id, process_for_guest, streams.message));
    return streams;
  };
  auto streams = add();
  if (!streams.has_value()) {
    const std::lock_guard lock(mu_);
    container->processes.erase(exec_id);
    return tl::unexpected(std::move(streams).error());
  }
  AwaitExit(container, exec_id, process);
  return ToIo(std::move(*streams));
}

Result<ExitInfo> SandboxImpl::DeleteProcess(const std::string& id, const std::string& exec_id) {
  const Busy busy(*this);
  ContainerPtr container;
  WV_TRY(const ProcessPtr process, FindProcess(id, exec_id, &container));
  {
    const std::lock_guard lock(mu_);
    if (process->status == ProcessStatus::kRunning && !process->exit.has_value()) {
      return Fail(
          Code::kFailedPrecondition,
          fmt::format("{} is running", exec_id.empty() ? "container " + id : "exec " + exec_id));
    }
    if (container->deleting) {
      return Fail(Code::kFailedPrecondition, fmt::format("container {} is being deleted", id));
    }
    container->deleting = exec_id.empty();
  }
  return exec_id.empty() ? DeleteInit(container, process) : DeleteExec(container, exec_id, process);
}

Result<ExitInfo> SandboxImpl::DeleteExec(const ContainerPtr& container, const std::string& exec_id,
                                         const ProcessPtr& exec) {
  if (CheckAlive().has_value()) {
    auto deleted = agent_->DeleteProcess(container->id, exec_id);
    if (!deleted.has_value() && deleted.error().code() != Code::kNotFound &&
        CheckAlive().has_value()) {
      if (!HasEnded(exec)) {
        return tl::unexpected(std::move(deleted).error());
      }
      WV_WARN("container {}: deleting exec {} in the guest: {}", container->id, exec_id,
              PlainText(deleted.error().message(), kMaxGuestError));
    }
  }
  SetExited(exec, 128 + SIGKILL);  // one that was never started: for whoever waits
  const std::lock_guard lock(mu_);
  container->processes.erase(exec_id);
  const std::optional<ExitInfo>& exit = exec->exit;
  WV_CHECK(exit.has_value());
  return *exit;
}

// The agent deletes only what has ended. Bounded by what KillInit does to a guest that does not obey.
void SandboxImpl::EndUnstarted(const ContainerPtr& container, const ProcessPtr& init) {
  if (!HasEnded(init)) {
    static_cast<void>(KillInit(container, init, /*all=*/true));
  }
  std::unique_lock lock(mu_);
  changed_.wait(lock, [&] { return init->exit.has_value() || death_.has_value() || stopping_; });
}

// Its init has ended. False: the guest does not do it; with its last container the machine ends then, else what is left stays in the
// guest until it ends.
bool SandboxImpl::DeleteInGuest(const ContainerPtr& container) {
  bool written_back = false;
  {
    const std::lock_guard lock(mu_);
    written_back = container->written_back;
  }
  if (!written_back) {
    WriteBack(*container, config_.timeouts.agent_call);
  }
  const auto deadline = std::chrono::steady_clock::now() + backend_.patience.delete_refused;
  std::string why;
  while (true) {
    const auto deleted = agent_->DeleteProcess(container->id, "");
    if (deleted.has_value() || deleted.error().code() == Code::kNotFound) {
      return true;
    }
    why = PlainText(deleted.error().message(), kMaxGuestError);
    const Code code = deleted.error().code();
    if (code == Code::kDeadlineExceeded || code == Code::kUnavailable ||
        std::chrono::steady_clock::now() > deadline) {
      break;
    }
    std::this_thread::sleep_for(kDeleteRetry);
  }
  bool last = false;
  {
    const std::lock_guard lock(mu_);
    last = containers_.size() == 1;
  }
  if (!last) {
    WV_WARN("container {}: deleting it in the guest: {}", container->id, why);
    return false;
  }
  Die(fmt::format("its last container {} cannot be deleted in the guest: {}", container->id, why));
  machine_->End();  // here, too: what the host releases next is then free
  return false;
}

Result<ExitInfo> SandboxImpl::DeleteInit(const ContainerPtr& container, const ProcessPtr& init) {
  const std::string& id = container->id;
  const auto give_up = [&](Error error) -> Result<ExitInfo> {
    const std::lock_guard lock(mu_);
    container->deleting = false;
    return tl::unexpected(std::move(error));
  };
  if (CheckAlive().has_value()) {
    EndUnstarted(container, init);
  }
  const bool obeys =
      container->stands_for_pod || !CheckAlive().has_value() || DeleteInGuest(container);
  SetExited(init, 128 + SIGKILL);
  auto released = ReleaseContainer(container, obeys);
  if (!released.has_value()) {
    return give_up(std::move(released).error());
  }
  RunPoststop(container);
  std::vector<ProcessPtr> rest;
  {
    const std::lock_guard lock(mu_);
    for (const auto& [name, process] : container->processes) {
      rest.push_back(process);
    }
    containers_.erase(id);
  }
  for (const ProcessPtr& process : rest) {
    SetExited(process, 128 + SIGKILL);
  }
  AdjustOomScore();
  ReduceHostLimits();
  ShrinkAfterExit();
  const std::lock_guard lock(mu_);
  return *init->exit;
}

}  // namespace wyvern::runtime
