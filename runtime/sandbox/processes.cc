// Processes: states from memory, actions by the agent.
#include <fmt/format.h>

#include <csignal>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/plain_text.h"
#include "cgroup/sum.h"
#include "container/hooks.h"
#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {
namespace {

constexpr uint64_t kUnlimited = ~uint64_t{0};

}  // namespace

Result<> SandboxImpl::CheckAlive() {
  const std::lock_guard lock(mu_);
  if (death_.has_value()) {
    return Fail(Code::kUnavailable, "the sandbox is dead: " + *death_);
  }
  if (stopping_) {
    return Fail(Code::kUnavailable, "the sandbox is shutting down");
  }
  return {};
}

Result<SandboxImpl::ContainerPtr> SandboxImpl::FindContainer(const std::string& id) {
  if (id.empty()) {
    return guest_;
  }
  const std::lock_guard lock(mu_);
  const auto it = containers_.find(id);
  if (it == containers_.end() || !it->second->created) {
    return Fail(Code::kNotFound, fmt::format("container {} not found", id));
  }
  return it->second;
}

Result<SandboxImpl::ProcessPtr> SandboxImpl::FindProcess(const std::string& id,
                                                         const std::string& exec_id,
                                                         ContainerPtr* container) {
  WV_TRY(const ContainerPtr found, FindContainer(id));
  const std::lock_guard lock(mu_);
  const auto it = found->processes.find(exec_id);
  if (it == found->processes.end()) {
    return Fail(Code::kNotFound, fmt::format("exec {} not found in {}", exec_id,
                                             id.empty() ? "the guest" : "container " + id));
  }
  if (container != nullptr) {
    *container = found;
  }
  return it->second;
}

void SandboxImpl::SetExited(const ProcessPtr& process, uint32_t status) {
  const std::lock_guard lock(mu_);
  if (process->exit.has_value()) {
    return;
  }
  process->status = ProcessStatus::kStopped;
  process->exit = ExitInfo{process->reported.value_or(status), std::chrono::system_clock::now()};
  changed_.notify_all();
}

bool SandboxImpl::HasEnded(const ProcessPtr& process) {
  const std::lock_guard lock(mu_);
  return process->exit.has_value() || process->reported.has_value();
}

// The guest is gone, or it does not tell. An exec is then taken for dead; of an init the whole machine is the part that can be ended.
void SandboxImpl::OnWaitFailed(const ContainerPtr& container, const std::string& exec_id,
                               const ProcessPtr& process, const Error& error) {
  const std::string why = PlainText(error.message(), kMaxGuestError);
  WV_DEBUG("container {}: waiting for '{}': {}", container->id, exec_id, why);
  if (!exec_id.empty()) {
    SetExited(process, 128 + SIGKILL);
  } else if (!HasEnded(process)) {
    DieSoon(fmt::format("the end of container {} cannot be learnt: {}", container->id, why));
  }
}

void SandboxImpl::AwaitExit(const ContainerPtr& container, const std::string& exec_id,
                            const ProcessPtr& process) {
  agent_->WaitProcess(container->id, exec_id,
                      [this, process, container, exec_id](Result<uint32_t> status) {
                        if (!status.has_value()) {
                          OnWaitFailed(container, exec_id, process, status.error());
                        } else if (exec_id.empty()) {
                          {
                            const std::lock_guard lock(mu_);
                            process->reported = *status;
                          }
                          pool_->Run([this, container, process, code = *status] {
                            const bool done = WriteBack(*container, config_.timeouts.shutdown);
                            {
                              const std::lock_guard lock(mu_);
                              container->written_back = done;
                            }
                            EndAnchor(container);
                            TellExited(container->id, process, code);
                            SetExited(process, code);
                            ShrinkAfterExit();
                          });
                        } else {
                          SetExited(process, *status);
                        }
                      });
}

// Who learns of an exit or a pause reads a volume next: pages that were written by mmap are then on the host.
bool SandboxImpl::WriteBack(const Container& container, std::chrono::milliseconds limit) {
  const auto synced = agent_->SyncFilesystems(limit);
  if (!synced.has_value()) {
    WV_WARN("container {}: writing back: {}", container.id, synced.error().message());
  }
  return synced.has_value();
}

Result<> SandboxImpl::StartProcess(const std::string& id, const std::string& exec_id) {
  ContainerPtr container;
  WV_TRY(const ProcessPtr process, FindProcess(id, exec_id, &container));
  WV_TRY_VOID(CheckAlive());
  {
    const std::lock_guard lock(mu_);
    if (process->status != ProcessStatus::kCreated || process->starting) {
      return Fail(Code::kFailedPrecondition, "it was started already");
    }
    if (container->Stopped()) {
      return Fail(Code::kFailedPrecondition, fmt::format("container {} has stopped", id));
    }
    process->starting = true;
  }
  // A hook may have brought an interface, or whoever called Create (docker, `ctr run --cni`).
  if (auto network = exec_id.empty() ? SyncNetwork() : Result<>(); !network.has_value()) {
    const std::lock_guard lock(mu_);
    process->starting = false;
    return network;
  }
  const int64_t start = timeline_.Now();
  auto started = container->stands_for_pod ? Result<>() : agent_->StartProcess(id, exec_id);
  {
    const std::lock_guard lock(mu_);
    process->starting = false;
    // It may have ended already: then it stays stopped.
    if (started.has_value() && process->status == ProcessStatus::kCreated) {
      process->status = ProcessStatus::kRunning;
    }
  }
  if (!started.has_value()) {
    // An exec that could not start has ended (the agent says so too, with 126 or 127); an init can be deleted as created.
    return started;
  }
  timeline_.Add(exec_id.empty() ? "crun-start" : "exec-start", start);
  if (exec_id.empty()) {
    TellStarted(id, process);
    auto hooked = RunHooks("poststart", container->host->facts().hooks.poststart,
                           HookStateOf(*container, "running", container->anchor_pid),
                           stop_hooks_.get_token());
    if (!hooked.has_value()) {  // as runc does
      static_cast<void>(KillInit(container, process, /*all=*/true));
      return hooked;
    }
  }
  return {};
}

Result<ExitInfo> SandboxImpl::Wait(const std::string& id, const std::string& exec_id) {
  WV_TRY(const ProcessPtr process, FindProcess(id, exec_id));
  std::unique_lock lock(mu_);
  const std::optional<ExitInfo>& exit = process->exit;
  changed_.wait(lock, [&exit] { return exit.has_value(); });
  WV_CHECK(exit.has_value());
  return *exit;
}

Result<> SandboxImpl::Signal(const std::string& id, const std::string& exec_id, int signal,
                             bool all) {
  ContainerPtr container;
  WV_TRY(const ProcessPtr process, FindProcess(id, exec_id, &container));
  if (signal < 0 || signal > 64) {
    return Fail(Code::kInvalidArgument, fmt::format("{} is not a signal", signal));
  }
  {
    const std::lock_guard lock(mu_);
    if (process->exit.has_value()) {
      return Fail(Code::kNotFound, "the process has finished");
    }
    if (!exec_id.empty() && process->status == ProcessStatus::kCreated && !process->starting) {
      return Fail(Code::kFailedPrecondition, fmt::format("exec {} was not started", exec_id));
    }
  }
  WV_TRY_VOID(CheckAlive());
  if (container->stands_for_pod) {
    return SignalPause(container, process, signal);
  }
  if (signal == SIGKILL && exec_id.empty()) {
    return KillInit(container, process, all);
  }
  return agent_->SignalProcess(id, exec_id, static_cast<uint32_t>(signal), all);
}

// No request: the init ends, or the machine does. NOT_FOUND when the guest says that it has ended: then it has to say how.
Result<> SandboxImpl::KillInit(const ContainerPtr& container, const ProcessPtr& init, bool all) {
  if (container->stands_for_pod) {
    return SignalPause(container, init, SIGKILL);
  }
  auto killed =
      agent_->SignalProcess(container->id, "", SIGKILL, all, backend_.patience.kill_answer);
  if (!killed.has_value() && killed.error().code() != Code::kNotFound && !HasEnded(init)) {
    DieSoon(fmt::format("container {} cannot be killed: {}", container->id,
                        PlainText(killed.error().message(), kMaxGuestError)));
    return {};
  }
  {
    const std::lock_guard lock(mu_);
    if (std::exchange(init->killed, true)) {
      return killed;
    }
  }
  loop_->loop().Post([this, container, init] {
    const auto limit = backend_.patience.kill_exit;
    loop_->loop().After(limit, [this, container, init, limit] {
      if (!HasEnded(init)) {
        Die(fmt::format("container {} did not end within {} ms of SIGKILL", container->id,
                        limit.count()));
      }
    });
  });
  return killed;
}

Result<> SandboxImpl::ResizeTerminal(const std::string& id, const std::string& exec_id,
                                     uint32_t rows, uint32_t columns) {
  ContainerPtr container;
  WV_TRY(const ProcessPtr process, FindProcess(id, exec_id, &container));
  {
    const std::lock_guard lock(mu_);
    if (!process->terminal || process->exit.has_value() || container->stands_for_pod) {
      return {};
    }
  }
  WV_TRY_VOID(CheckAlive());
  return agent_->ResizeTerminal(id, exec_id, rows, columns);
}

Result<> SandboxImpl::CloseStdin(const std::string& id, const std::string& exec_id) {
  ContainerPtr container;
  WV_TRY(const ProcessPtr process, FindProcess(id, exec_id, &container));
  {
    const std::lock_guard lock(mu_);
    if (process->exit.has_value() || container->stands_for_pod) {
      return {};
    }
  }
  WV_TRY_VOID(CheckAlive());
  auto closed = agent_->CloseStdin(id, exec_id);
  if (!closed.has_value() && closed.error().code() == Code::kNotFound) {
    return {};
  }
  return closed;
}

Result<ProcessState> SandboxImpl::State(const std::string& id, const std::string& exec_id) {
  ContainerPtr container;
  WV_TRY(const ProcessPtr process, FindProcess(id, exec_id, &container));
  const std::lock_guard lock(mu_);
  ProcessState state;
  state.status = process->status == ProcessStatus::kRunning && container->paused
                     ? ProcessStatus::kPaused
                     : process->status;
  state.pid = container->anchor_pid;
  state.terminal = process->terminal;
  state.exit = process->exit;
  return state;
}

Result<> SandboxImpl::PauseContainer(const std::string& id) {
  ContainerPtr container;
  WV_TRY(const ProcessPtr init, FindProcess(id, "", &container));
  WV_TRY_VOID(CheckAlive());
  {
    const std::lock_guard lock(mu_);
    if (init->status != ProcessStatus::kRunning || container->paused) {
      return Fail(Code::kFailedPrecondition, fmt::format("container {} is not running", id));
    }
  }
  if (!container->stands_for_pod) {
    WV_TRY_VOID(agent_->PauseContainer(id));
    WriteBack(*container, config_.timeouts.agent_call);
  }
  const std::lock_guard lock(mu_);
  container->paused = true;
  return {};
}

Result<> SandboxImpl::ResumeContainer(const std::string& id) {
  ContainerPtr container;
  WV_TRY(const ProcessPtr init, FindProcess(id, "", &container));
  WV_TRY_VOID(CheckAlive());
  {
    const std::lock_guard lock(mu_);
    if (!container->paused || init->exit.has_value()) {
      return Fail(Code::kFailedPrecondition, fmt::format("container {} is not paused", id));
    }
  }
  if (!container->stands_for_pod) {
    WV_TRY_VOID(agent_->ResumeContainer(id));
  }
  const std::lock_guard lock(mu_);
  container->paused = false;
  return {};
}

Result<std::vector<std::pair<pid_t, std::string>>> SandboxImpl::Pids(const std::string& id) {
  WV_TRY(const ContainerPtr container, FindContainer(id));
  const std::lock_guard lock(mu_);
  std::vector<std::pair<pid_t, std::string>> out;
  for (const auto& [exec_id, process] : container->processes) {
    if (exec_id.empty() || process->status == ProcessStatus::kRunning) {
      out.emplace_back(container->anchor_pid, exec_id);
    }
  }
  return out;
}

Result<ContainerStats> SandboxImpl::Stats(const std::string& id) {
  WV_TRY(const ContainerPtr container, FindContainer(id));
  WV_TRY_VOID(CheckAlive());
  if (container->stands_for_pod) {
    return PauseStats();
  }
  WV_TRY(const agent_pb::ContainerStatsResponse in, agent_->ContainerStats(id));
  ContainerStats out;
  out.cpu_usage_usec = in.cpu_usage_usec();
  out.cpu_user_usec = in.cpu_user_usec();
  out.cpu_system_usec = in.cpu_system_usec();
  out.nr_periods = in.cpu_nr_periods();
  out.nr_throttled = in.cpu_nr_throttled();
  out.throttled_usec = in.cpu_throttled_usec();
  out.memory_current = in.memory_current();
  out.memory_limit = in.memory_limit();
  out.swap_current = in.swap_current();
  out.swap_limit = in.swap_limit();
  out.memory_stat.insert(in.memory_stat().begin(), in.memory_stat().end());
  out.memory_events.insert(in.memory_events().begin(), in.memory_events().end());
  out.pids_current = in.pids_current();
  out.pids_limit = in.pids_limit() == 0 ? kUnlimited : in.pids_limit();
  for (const agent_pb::IoStat& io : in.io()) {
    out.io.push_back({io.major(), io.minor(), io.rbytes(), io.wbytes(), io.rios(), io.wios()});
  }
  return out;
}

std::vector<std::string> SandboxImpl::ContainerIds() {
  const std::lock_guard lock(mu_);
  std::vector<std::string> out;
  for (const auto& [id, container] : containers_) {
    if (container->created) {
      out.push_back(id);
    }
  }
  return out;
}

size_t SandboxImpl::ContainerCount() {
  return ContainerIds().size();
}

std::string SandboxImpl::KernelRelease() {
  return agent_ == nullptr ? "" : PlainText(agent_->hello().kernel_release(), 64);
}

ConsoleTail SandboxImpl::ConsoleLog() {
  if (machine_ == nullptr) {
    return {};
  }
  api::ConsoleText console = machine_->Console();
  return {std::move(console.text), console.dropped};
}

std::vector<TimelinePoint> SandboxImpl::Timeline() {
  return timeline_.Points();
}

std::string SandboxImpl::EffectiveConfig() {
  return EffectiveYaml(config_);
}

}  // namespace wyvern::runtime
