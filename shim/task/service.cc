#include "task/service.h"

#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "proto/containerd_events.pb.h"
#include "proto/containerd_options.pb.h"
#include "task/stats.h"

namespace wyvern::shim {

using runtime::ProcessStatus;

pb::Timestamp ToTimestamp(std::chrono::system_clock::time_point at) {
  const auto since = at.time_since_epoch();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since);
  pb::Timestamp stamp;
  stamp.set_seconds(seconds.count());
  stamp.set_nanos(static_cast<int32_t>(std::chrono::nanoseconds(since - seconds).count()));
  return stamp;
}

TaskService::TaskService(TaskServiceOptions options, EventLoop& loop, EventSink& events,
                         ttrpc::BlockingPool& pool)
    : options_(std::move(options)), loop_(loop), events_(events), pool_(pool) {}

TaskService::~TaskService() = default;

Result<TaskService::Found> TaskService::FindLocked(const std::string& id,
                                                   const std::string& exec_id) {
  const auto container = containers_.find(id);
  if (container == containers_.end()) {
    return Fail(Code::kNotFound, "container " + id + " not found");
  }
  ProcessPtr process = container->second->Find(exec_id);
  if (process == nullptr) {
    return Fail(Code::kNotFound, "process " + exec_id + " of container " + id + " not found");
  }
  return Found{container->second, std::move(process)};
}

std::shared_ptr<runtime::Sandbox> TaskService::sandbox() {
  const std::lock_guard lock(mu_);
  return sandbox_;
}

Result<task_pb::StateResponse> TaskService::State(const task_pb::StateRequest& request) {
  const std::lock_guard lock(mu_);
  WV_TRY(const Found found, FindLocked(request.id(), request.exec_id()));
  const Process& process = *found.process;
  task_pb::StateResponse response;
  response.set_id(process.is_init() ? found.container->id : process.exec_id);
  response.set_bundle(found.container->bundle);
  response.set_pid(static_cast<uint32_t>(process.pid));
  const bool paused = found.container->paused && process.status == ProcessStatus::kRunning;
  response.set_status(
      static_cast<task_pb::Status>(paused ? ProcessStatus::kPaused : process.status));
  response.set_stdin(process.spec.stdin_path);
  response.set_stdout(process.spec.stdout_uri);
  response.set_stderr(process.spec.stderr_uri);
  response.set_terminal(process.spec.terminal);
  if (process.exit) {
    response.set_exit_status(process.exit->status);
    *response.mutable_exited_at() = ToTimestamp(process.exit->at);
  }
  response.set_exec_id(process.exec_id);
  return response;
}

Result<task_pb::ConnectResponse> TaskService::Connect(const task_pb::ConnectRequest& request) {
  const std::lock_guard lock(mu_);
  task_pb::ConnectResponse response;
  response.set_shim_pid(static_cast<uint32_t>(getpid()));
  // An unknown id is no error: containerd connects before Create, too.
  if (const auto found = FindLocked(request.id(), ""); found) {
    response.set_task_pid(static_cast<uint32_t>(found->process->pid));
  }
  return response;
}

void TaskService::Wait(const task_pb::WaitRequest& request, WaitResponder responder) {
  std::unique_lock lock(mu_);
  auto found = FindLocked(request.id(), request.exec_id());
  if (!found) {
    lock.unlock();
    responder.Fail(std::move(found).error());
    return;
  }
  Process& process = *found->process;
  if (!process.exit) {
    // Clients that gave up leave their responders behind.
    std::erase_if(process.waiters, [](const WaitResponder& waiter) { return !waiter.alive(); });
    process.waiters.push_back(std::move(responder));
    return;
  }
  task_pb::WaitResponse response;
  response.set_exit_status(process.exit->status);
  *response.mutable_exited_at() = ToTimestamp(process.exit->at);
  lock.unlock();
  responder.Ok(response);
}

Result<task_pb::PidsResponse> TaskService::Pids(const task_pb::PidsRequest& request) {
  std::vector<std::pair<pid_t, std::string>> pids;
  std::shared_ptr<runtime::Sandbox> box;
  {
    const std::lock_guard lock(mu_);
    WV_TRY(const Found found, FindLocked(request.id(), ""));
    // containerd takes a task without a process for a leak and removes it: there is always the init's.
    pids.emplace_back(found.process->pid, "");
    for (const auto& [exec_id, exec] : found.container->execs) {
      if (exec->active()) {
        pids.emplace_back(exec->pid, exec_id);
      }
    }
    box = sandbox_dead_ || found.process->exit ? nullptr : sandbox_;
  }
  if (box != nullptr) {
    if (auto asked = box->Pids(request.id()); asked && !asked->empty()) {
      pids = *std::move(asked);
    }
  }
  task_pb::PidsResponse response;
  for (const auto& [pid, exec_id] : pids) {
    auto& process = *response.add_processes();
    process.set_pid(static_cast<uint32_t>(pid));
    if (!exec_id.empty()) {
      containerd::options::ProcessDetails details;
      details.set_exec_id(exec_id);
      process.mutable_info()->set_type_url("containerd.runc.v1.ProcessDetails");
      process.mutable_info()->set_value(details.SerializeAsString());
    }
  }
  return response;
}

Result<task_pb::StatsResponse> TaskService::Stats(const task_pb::StatsRequest& request) {
  ContainerPtr container;
  std::shared_ptr<runtime::Sandbox> box;
  {
    const std::lock_guard lock(mu_);
    WV_TRY(const Found found, FindLocked(request.id(), ""));
    container = found.container;
    box = found.process->exit ? nullptr : sandbox_;
  }
  std::optional<runtime::ContainerStats> fresh;
  if (box != nullptr) {
    auto stats = box->Stats(request.id());
    if (stats) {
      fresh = *std::move(stats);
    } else {
      WV_DEBUG("stats of {}: {}", request.id(), stats.error().message());
    }
  }
  const std::lock_guard lock(mu_);
  // Those that were asked for before the end may come after those from after it.
  if (fresh && !(container->figures_kept && container->last_stats)) {
    container->last_stats = std::move(fresh);
  }
  // Between exit and Delete the last figures stay readable: CRI looks there for an OOM kill.
  const std::optional<runtime::ContainerStats>& last = container->last_stats;
  if (!last) {
    return Fail(Code::kUnavailable, "there are no figures of container " + request.id());
  }
  task_pb::StatsResponse response;
  *response.mutable_stats() = EncodeStats(*last);
  return response;
}

std::vector<ContainerSummary> TaskService::Containers() {
  const std::lock_guard lock(mu_);
  std::vector<ContainerSummary> summaries;
  for (const auto& [id, container] : containers_) {
    const bool paused = container->paused && container->init->status == ProcessStatus::kRunning;
    summaries.push_back({id, container->bundle,
                         paused ? ProcessStatus::kPaused : container->init->status,
                         container->init->pid, container->created_at});
  }
  return summaries;
}

}  // namespace wyvern::shim
