// Signals, freezing, resources, terminals.
#include <signal.h>

#include "task/service_events.h"

namespace wyvern::shim {

using runtime::ProcessStatus;

Result<pb::Empty> TaskService::Kill(const task_pb::KillRequest& request) {
  if (request.signal() == 0 || request.signal() >= NSIG) {
    return Fail(Code::kInvalidArgument, "no such signal: " + std::to_string(request.signal()));
  }
  std::shared_ptr<runtime::Sandbox> box;
  {
    const std::lock_guard lock(mu_);
    WV_TRY(const Found found, FindLocked(request.id(), request.exec_id()));
    const Process& process = *found.process;
    // A sandbox that died takes everything with it; the exits may not have arrived yet. Clients that stop a task tolerate NOT_FOUND only.
    if (process.exit || sandbox_dead_ || sandbox_ == nullptr) {
      return Fail(Code::kNotFound, "process already finished");
    }
    if (!process.is_init() && process.status == ProcessStatus::kCreated && !process.starting) {
      return Fail(Code::kFailedPrecondition, "cannot signal an exec that was not started");
    }
    box = sandbox_;
  }
  auto sent = box->Signal(request.id(), request.exec_id(), static_cast<int>(request.signal()),
                          request.all());
  if (!sent) {
    const std::lock_guard lock(mu_);
    if (sent.error().code() == Code::kUnavailable && sandbox_dead_) {
      return Fail(Code::kNotFound, "process already finished");
    }
    return tl::unexpected(std::move(sent).error());
  }
  return pb::Empty();
}

Result<pb::Empty> TaskService::Pause(const task_pb::PauseRequest& request) {
  std::unique_lock lock(mu_);
  WV_TRY(const Found found, FindLocked(request.id(), ""));
  if (found.process->status != ProcessStatus::kRunning || found.container->paused ||
      sandbox_ == nullptr) {
    return Fail(Code::kFailedPrecondition, "cannot pause a container that does not run");
  }
  const auto box = sandbox_;
  lock.unlock();
  WV_TRY_VOID(box->PauseContainer(request.id()));
  containerd::events::TaskPaused event;
  event.set_container_id(request.id());
  lock.lock();
  found.container->paused = true;
  Publish("/tasks/paused", event);
  return pb::Empty();
}

Result<pb::Empty> TaskService::Resume(const task_pb::ResumeRequest& request) {
  std::unique_lock lock(mu_);
  WV_TRY(const Found found, FindLocked(request.id(), ""));
  if (!found.container->paused || found.process->exit || sandbox_ == nullptr) {
    return Fail(Code::kFailedPrecondition, "cannot resume a container that is not paused");
  }
  const auto box = sandbox_;
  lock.unlock();
  WV_TRY_VOID(box->ResumeContainer(request.id()));
  containerd::events::TaskResumed event;
  event.set_container_id(request.id());
  lock.lock();
  found.container->paused = false;
  Publish("/tasks/resumed", event);
  return pb::Empty();
}

Result<pb::Empty> TaskService::Update(const task_pb::UpdateTaskRequest& request) {
  std::shared_ptr<runtime::Sandbox> box;
  {
    const std::lock_guard lock(mu_);
    WV_TRY(const Found found, FindLocked(request.id(), ""));
    if (found.process->exit || sandbox_ == nullptr) {
      return Fail(Code::kFailedPrecondition, "cannot update a container that has ended");
    }
    box = sandbox_;
  }
  WV_TRY_VOID(box->UpdateContainer(request.id(), request.resources().value()));
  return pb::Empty();
}

Result<pb::Empty> TaskService::ResizePty(const task_pb::ResizePtyRequest& request) {
  std::shared_ptr<runtime::Sandbox> box;
  bool must_work = false;
  {
    const std::lock_guard lock(mu_);
    WV_TRY(const Found found, FindLocked(request.id(), request.exec_id()));
    Process& process = *found.process;
    if (!process.spec.terminal || process.exit || sandbox_ == nullptr) {
      return pb::Empty();
    }
    must_work = process.status == ProcessStatus::kRunning;
    if (!must_work) {
      process.rows = request.height();
      process.columns = request.width();
      if (!process.is_init()) {
        return pb::Empty();  // it has no terminal before Start
      }
    }
    box = sandbox_;
  }
  auto resized =
      box->ResizeTerminal(request.id(), request.exec_id(), request.height(), request.width());
  if (!resized && must_work && resized.error().code() != Code::kNotFound) {
    return tl::unexpected(std::move(resized).error());
  }
  return pb::Empty();
}

Result<pb::Empty> TaskService::CloseIo(const task_pb::CloseIORequest& request) {
  const std::lock_guard lock(mu_);
  WV_TRY(const Found found, FindLocked(request.id(), request.exec_id()));
  if (request.stdin()) {
    found.process->stdin_closed = true;
    if (found.process->stdio != nullptr) {
      found.process->stdio->CloseStdin();
    }
  }
  return pb::Empty();
}

Result<pb::Empty> TaskService::Checkpoint(const task_pb::CheckpointTaskRequest& /*request*/) {
  return Fail(Code::kUnimplemented, "checkpoints are not supported");
}

}  // namespace wyvern::shim
