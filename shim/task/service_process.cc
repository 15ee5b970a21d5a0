// Start, exit, Exec and Delete of one process.
#include <signal.h>

#include <algorithm>
#include <utility>

#include "base/cleanup.h"
#include "base/log.h"
#include "task/service_events.h"

namespace wyvern::shim {

using runtime::ProcessStatus;

namespace {

// A client that reads gets all output before it hears of the exit; one that does not read delays the news by the first, never more.
constexpr std::chrono::milliseconds kFlushStall{100};
constexpr std::chrono::milliseconds kFlushLimit{2000};
constexpr std::chrono::milliseconds kFiguresPatience{1000};
// The sandbox dies before that when the guest does not end what it killed; what that takes itself is on top.
constexpr std::chrono::milliseconds kKillPatience =
    runtime::Patience().kill_exit + std::chrono::seconds(10);
constexpr std::chrono::milliseconds kOtherDeletePatience{30000};
constexpr uint32_t kStatusKilled = 137;  // 128 + SIGKILL
constexpr uint32_t kStatusNotStarted = 255;

void AnswerAll(std::vector<WaitResponder> waiters, const runtime::ExitInfo& exit) {
  task_pb::WaitResponse response;
  response.set_exit_status(exit.status);
  *response.mutable_exited_at() = ToTimestamp(exit.at);
  for (const WaitResponder& waiter : waiters) {
    waiter.Ok(response);
  }
}

}  // namespace

Result<> TaskService::CheckStartLocked(const Found& found) const {
  const Process& process = *found.process;
  if (process.starting || process.status == ProcessStatus::kRunning) {
    return Fail(Code::kFailedPrecondition, "cannot start a process that runs already");
  }
  if (process.status == ProcessStatus::kStopped || process.deleting) {
    return Fail(Code::kFailedPrecondition, "cannot start a process that has ended");
  }
  if (!process.is_init() && (found.container->init_gone || found.container->init->exit)) {
    return Fail(Code::kFailedPrecondition, "cannot exec in a container that has ended");
  }
  if (found.container->paused) {
    return Fail(Code::kFailedPrecondition, "cannot start a process in a paused container");
  }
  return {};
}

Result<> TaskService::StartExecIo(const Found& found) {
  Process& process = *found.process;
  WV_TRY(std::shared_ptr<ProcessStdio> stdio,
         ProcessStdio::Open(loop_, process.spec, options_.streams));
  stdio->AwaitClient();
  const std::lock_guard lock(mu_);
  if (found.container->init_gone) {
    return Fail(Code::kFailedPrecondition, "the container ended before the exec was started");
  }
  stdio->Attach(std::exchange(process.pending_io, {}));
  if (process.stdin_closed) {
    stdio->CloseStdin();
  }
  process.stdio = std::move(stdio);
  return {};
}

Result<> TaskService::StartInSandbox(const Found& found) {
  const auto box = sandbox();
  if (box == nullptr) {
    return Fail(Code::kUnavailable, "the sandbox is gone");
  }
  const std::string& id = found.container->id;
  const std::string& exec_id = found.process->exec_id;
  if (!found.process->is_init()) {
    WV_TRY_VOID(StartExecIo(found));
  }
  WV_TRY_VOID(box->StartProcess(id, exec_id));
  uint32_t rows = 0;
  uint32_t columns = 0;
  pid_t pid = 0;
  if (const auto state = box->State(id, exec_id); state) {
    pid = state->pid;
  }
  {
    const std::lock_guard lock(mu_);
    rows = found.process->rows;
    columns = found.process->columns;
    found.process->pid = pid > 0 ? pid : found.container->init->pid;
  }
  if (rows > 0 && columns > 0) {
    (void)box->ResizeTerminal(id, exec_id, rows, columns);
  }
  return {};
}

Result<task_pb::StartResponse> TaskService::Start(const task_pb::StartRequest& request) {
  std::unique_lock lock(mu_);
  WV_TRY(const Found found, FindLocked(request.id(), request.exec_id()));
  Process& process = *found.process;
  WV_TRY_VOID(CheckStartLocked(found));
  process.starting = true;
  lock.unlock();
  auto started = StartInSandbox(found);
  lock.lock();
  process.starting = false;
  changed_.notify_all();
  if (!process.is_init() && process.exit) {  // AwaitExecs gave it up
    return Fail(Code::kFailedPrecondition, "the container ended while the exec was being started");
  }
  if (!started) {
    if (!process.is_init()) {
      // It never ran: there is no event, but who waits for it is told.
      process.status = ProcessStatus::kStopped;
      process.exit = runtime::ExitInfo{kStatusNotStarted, std::chrono::system_clock::now()};
      if (process.stdio != nullptr) {
        process.stdio->Abort();
      }
      process.pending_io = {};
      AnswerAll(std::exchange(process.waiters, {}), *process.exit);
    }
    return tl::unexpected(std::move(started).error());
  }
  task_pb::StartResponse response;
  response.set_pid(static_cast<uint32_t>(process.pid));
  if (!process.exit) {
    process.status = ProcessStatus::kRunning;
  }
  if (process.is_init()) {
    containerd::events::TaskStart event;
    event.set_container_id(found.container->id);
    event.set_pid(response.pid());
    Publish("/tasks/start", event);
  } else {
    containerd::events::TaskExecStarted event;
    event.set_container_id(found.container->id);
    event.set_exec_id(process.exec_id);
    event.set_pid(response.pid());
    Publish("/tasks/exec-started", event);
    pool_.Run([this, found] { AwaitExit(found.container, found.process); });
  }
  return response;
}

void TaskService::AwaitExit(const ContainerPtr& container, const ProcessPtr& process) {
  const LogScope scope("container", container->id);
  runtime::ExitInfo exit{kStatusKilled, std::chrono::system_clock::now()};
  const auto box = sandbox();
  if (box != nullptr) {
    if (const auto waited = box->Wait(container->id, process->exec_id); waited) {
      exit = *waited;
    } else {
      WV_WARN("waiting for {} {}: {}", container->id, process->exec_id, waited.error().message());
    }
  }
  if (exit.at == std::chrono::system_clock::time_point()) {
    exit.at = std::chrono::system_clock::now();
  }
  const bool figures = process->is_init() && box != nullptr;
  if (figures) {
    pool_.Run([this, container, box] { KeepFigures(container, *box); });
  }
  {
    // It may have died inside Start: the start event comes first.
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return !process->starting; });
  }
  if (process->is_init()) {
    AwaitExecs(container);
  }
  process->stdio->WaitFlushed(kFlushStall, kFlushLimit);
  if (figures) {
    // Who hears of the exit asks for them next (an OOM kill is in them), or deletes the container, and they are gone.
    std::unique_lock lock(mu_);
    if (!changed_.wait_for(lock, kFiguresPatience, [&] { return container->figures_kept; })) {
      WV_WARN("{}: its last figures are late", container->id);
    }
  }
  RecordExit(container, process, exit);
}

void TaskService::KeepFigures(const ContainerPtr& container, runtime::Sandbox& box) {
  auto stats = box.Stats(container->id);
  const std::lock_guard lock(mu_);
  if (stats) {
    container->last_stats = *std::move(stats);
  }
  container->figures_kept = true;
  changed_.notify_all();
}

void TaskService::AwaitExecs(const ContainerPtr& container) {
  std::vector<ProcessPtr> stuck;
  {
    std::unique_lock lock(mu_);
    container->init_gone = true;
    // One whose streams are not open yet (a logger may take its time) is not in the sandbox, and from now on never will be: StartExecIo.
    const auto active = [](const auto& entry) {
      return entry.second->active() && entry.second->stdio != nullptr;
    };
    changed_.wait_for(lock, options_.exec_exit_patience, [&] {
      return std::none_of(container->execs.begin(), container->execs.end(), active);
    });
    for (const auto& entry : container->execs) {
      if (active(entry)) {
        stuck.push_back(entry.second);
      }
    }
  }
  for (const ProcessPtr& exec : stuck) {
    WV_WARN("exec {} of {} did not end with its container", exec->exec_id, container->id);
    RecordExit(container, exec, {kStatusKilled, std::chrono::system_clock::now()});
  }
}

void TaskService::RecordExit(const ContainerPtr& container, const ProcessPtr& process,
                             const runtime::ExitInfo& exit) {
  std::vector<WaitResponder> waiters;
  {
    const std::lock_guard lock(mu_);
    if (process->exit) {
      return;
    }
    process->exit = exit;
    process->status = ProcessStatus::kStopped;
    process->stdio->ProcessExited();
    if (!process->starting) {  // else there is no start event, and there will be none
      containerd::events::TaskExit event;
      event.set_container_id(container->id);
      event.set_id(process->is_init() ? container->id : process->exec_id);
      event.set_pid(static_cast<uint32_t>(process->pid));
      event.set_exit_status(exit.status);
      *event.mutable_exited_at() = ToTimestamp(exit.at);
      Publish("/tasks/exit", event);
    }
    waiters.swap(process->waiters);
    changed_.notify_all();
  }
  AnswerAll(std::move(waiters), exit);
}

Result<pb::Empty> TaskService::Exec(const task_pb::ExecProcessRequest& request) {
  if (request.exec_id().empty()) {
    return Fail(Code::kInvalidArgument, "Exec without an exec id");
  }
  StdioSpec spec{options_.ns,      request.exec_id(), request.stdin(),
                 request.stdout(), request.stderr(),  request.terminal()};
  std::shared_ptr<runtime::Sandbox> box;
  ContainerPtr container;
  {
    const std::lock_guard lock(mu_);
    WV_TRY(const Found found, FindLocked(request.id(), ""));
    container = found.container;
    if (container->execs.contains(request.exec_id())) {
      return Fail(Code::kAlreadyExists, "exec " + request.exec_id() + " exists already");
    }
    if (container->init_gone || found.process->exit || found.process->deleting) {
      return Fail(Code::kFailedPrecondition, "cannot exec in a container that has ended");
    }
    if (container->paused) {
      return Fail(Code::kFailedPrecondition, "cannot exec in a paused container");
    }
    box = sandbox_;
  }
  if (box == nullptr) {
    return Fail(Code::kUnavailable, "the sandbox is gone");
  }
  WV_TRY(runtime::ProcessIo io,
         box->AddExec(request.id(), request.exec_id(), request.spec().value(), WantedIo(spec)));
  auto exec = std::make_shared<Process>(request.exec_id(), std::move(spec));
  exec->pending_io = std::move(io);
  containerd::events::TaskExecAdded event;
  event.set_container_id(request.id());
  event.set_exec_id(request.exec_id());
  const std::lock_guard lock(mu_);
  container->execs[request.exec_id()] = std::move(exec);
  Publish("/tasks/exec-added", event);
  return pb::Empty();
}

Result<> TaskService::KillCreated(const Found& found) {
  if (const auto box = sandbox(); box != nullptr) {
    auto killed = box->Signal(found.container->id, "", SIGKILL, true);
    if (!killed && killed.error().code() != Code::kNotFound &&
        killed.error().code() != Code::kUnavailable) {
      return killed;
    }
  }
  std::unique_lock lock(mu_);
  if (!changed_.wait_for(lock, kKillPatience, [&] { return found.process->exit.has_value(); })) {
    return Fail(Code::kDeadlineExceeded, "the container did not end after SIGKILL");
  }
  return {};
}

Result<> TaskService::DeleteInSandbox(const Found& found) {
  const auto box = sandbox();
  if (box == nullptr) {
    return {};
  }
  auto deleted = box->DeleteProcess(found.container->id, found.process->exec_id);
  if (deleted || deleted.error().code() == Code::kNotFound) {
    return {};
  }
  bool dead = false;
  {
    const std::lock_guard lock(mu_);
    dead = sandbox_dead_;
  }
  if (!dead) {
    return tl::unexpected(std::move(deleted).error());
  }
  // What a dead sandbox still holds (mounts, cgroups) goes with it as a whole.
  if (found.process->is_init()) {
    if (auto down = box->Shutdown(); !down) {
      WV_ERROR("releasing a dead sandbox: {}", down.error().DebugString());
    }
  }
  return {};
}

void TaskService::Forget(const Found& found) {
  std::vector<WaitResponder> orphans;
  bool end = false;
  {
    const std::lock_guard lock(mu_);
    const auto drop = [&](Process& process) {
      std::move(process.waiters.begin(), process.waiters.end(), std::back_inserter(orphans));
      process.waiters.clear();
      if (process.stdio != nullptr) {
        process.stdio->Abort();
      }
    };
    drop(*found.process);
    if (found.process->is_init()) {
      for (const auto& [exec_id, exec] : found.container->execs) {
        drop(*exec);
      }
      const runtime::ExitInfo exit = found.process->exit.value_or(runtime::ExitInfo());
      containerd::events::TaskDelete event;
      event.set_container_id(found.container->id);
      event.set_pid(static_cast<uint32_t>(found.process->pid));
      event.set_exit_status(exit.status);
      *event.mutable_exited_at() = ToTimestamp(exit.at);
      Publish("/tasks/delete", event);
      containers_.erase(found.container->id);
      end = shutdown_when_empty_ && containers_.empty() && BeginEndingLocked();
    } else {
      found.container->execs.erase(found.process->exec_id);
    }
    changed_.notify_all();
  }
  for (const WaitResponder& waiter : orphans) {
    waiter.Fail(Error(Code::kNotFound, "the process was deleted"));
  }
  if (end) {
    pool_.Run([this] { EndSandbox(); });
  }
}

Result<task_pb::DeleteResponse> TaskService::Delete(const task_pb::DeleteRequest& request) {
  std::unique_lock lock(mu_);
  WV_TRY(Found found, FindLocked(request.id(), request.exec_id()));
  if (found.process->deleting) {
    // A client that lost patience asks again: it gets the end of the first call, not a second one.
    const ProcessPtr first = found.process;
    changed_.wait_for(lock, kOtherDeletePatience, [&] {
      const auto now = FindLocked(request.id(), request.exec_id());
      return !now || now->process != first || !first->deleting;
    });
    WV_TRY(found, FindLocked(request.id(), request.exec_id()));
  }
  Process& process = *found.process;
  if (process.deleting || process.active()) {
    return Fail(Code::kFailedPrecondition, found.container->paused
                                               ? "cannot delete a paused process"
                                               : "cannot delete a running process");
  }
  process.deleting = true;
  const bool never_ran = process.status == ProcessStatus::kCreated;
  lock.unlock();
  Cleanup undo([&] {
    const std::lock_guard again(mu_);
    process.deleting = false;
    changed_.notify_all();
  });
  if (never_ran && process.is_init()) {
    WV_TRY_VOID(KillCreated(found));
  }
  if (process.stdio != nullptr) {
    if (!process.stdio->WaitDrained(options_.drain_patience)) {
      WV_WARN("{} {}: output left when deleted", request.id(), request.exec_id());
    }
    process.stdio->Abort();
  }
  WV_TRY_VOID(DeleteInSandbox(found));
  undo.Cancel();
  Forget(found);
  task_pb::DeleteResponse response;
  response.set_pid(static_cast<uint32_t>(process.pid));
  const runtime::ExitInfo exit =
      process.exit.value_or(runtime::ExitInfo{0, std::chrono::system_clock::now()});
  response.set_exit_status(exit.status);
  *response.mutable_exited_at() = ToTimestamp(exit.at);
  return response;
}

}  // namespace wyvern::shim
