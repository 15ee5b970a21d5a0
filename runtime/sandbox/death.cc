// How a sandbox ends: by itself or by Shutdown.
#include <sys/epoll.h>

#include <algorithm>
#include <csignal>
#include <utility>

#include "base/log.h"
#include "sandbox/cleanup.h"
#include "sandbox/host_memory.h"
#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {
namespace {

constexpr std::chrono::milliseconds kLastWords{200};

}  // namespace

SandboxImpl::~SandboxImpl() {
  static_cast<void>(Shutdown());
  pool_.reset();  // what still runs there uses the rest of us
  agent_.reset();
  if (loop_ != nullptr) {
    loop_->Stop();
  }
}

void SandboxImpl::WatchAnchor(const ContainerPtr& container) {
  loop_->Call([&] {
    {
      const std::lock_guard lock(mu_);
      if (container->anchor_ended) {
        return;
      }
    }
    auto token = loop_->loop().Add(container->host->anchor().pid_fd().fd(), EPOLLIN,
                                   [this, container](uint32_t) { OnAnchorDeath(container); });
    if (!token.has_value()) {
      WV_ERROR("container {}: watching its anchor: {}", container->id, token.error().message());
      return;
    }
    container->anchor_watch = *token;
  });
}

void SandboxImpl::UnwatchAnchor(const ContainerPtr& container) {
  loop_->Call([&] {
    loop_->loop().Remove(std::exchange(container->anchor_watch, EventLoop::Token::kNone));
  });
}

// Of what has ended: before anybody is told, as the pid of a process that was waited for is gone then.
void SandboxImpl::EndAnchor(const ContainerPtr& container) {
  {
    const std::lock_guard lock(mu_);
    if (std::exchange(container->anchor_ended, true)) {
      return;
    }
  }
  pod_namespaces_.Remove(container->anchor_pid);
  UnwatchAnchor(container);
  container->host->EndAnchor();
}

// Somebody killed the pid that stands for the container: that is a SIGKILL of the container.
void SandboxImpl::OnAnchorDeath(const ContainerPtr& container) {
  loop_->loop().Remove(std::exchange(container->anchor_watch, EventLoop::Token::kNone));
  WV_WARN("container {}: its anchor was killed: the container is, too", container->id);
  pool_->Run([this, container] {
    ProcessPtr init;
    {
      const std::lock_guard lock(mu_);
      init = container->processes.at("");
    }
    if (CheckAlive().has_value() && !HasEnded(init)) {
      static_cast<void>(KillInit(container, init, /*all=*/true));
    }
  });
}

void SandboxImpl::OnMachineEvent(const MachineEvent& event) {
  if (event.IsNews()) {
    events_.Add(event.kind == MachineEvent::Kind::kResized ? observe::EventKind::kResized
                                                           : observe::EventKind::kHotplugFailed,
                "", event.text);
    return;
  }
  loop_->loop().Post([this, event] {
    // Told by name first: the process's end that follows says less.
    if (event.kind == MachineEvent::Kind::kProcessDied) {
      loop_->loop().After(std::chrono::milliseconds(50), [this, text = event.text] { Die(text); });
    } else {
      Die(event.text);
    }
  });
}

std::vector<SandboxImpl::ProcessPtr> SandboxImpl::AllProcesses() const {
  std::vector<ProcessPtr> processes;
  const auto add = [&processes](const Container& container) {
    for (const auto& [exec_id, process] : container.processes) {
      processes.push_back(process);
    }
  };
  for (const auto& [id, container] : containers_) {
    add(*container);
  }
  add(*guest_);
  return processes;
}

// For what may be the first sign of the machine's end: the VMM's own word for it comes within moments and says more.
void SandboxImpl::DieSoon(std::string reason) {
  loop_->loop().Post([this, reason = std::move(reason)] {
    loop_->loop().After(kLastWords, [this, reason] { Die(reason); });
  });
}

void SandboxImpl::Die(std::string reason) {
  std::vector<ProcessPtr> processes;
  std::function<void(std::string)> callback;
  {
    const std::lock_guard lock(mu_);
    if (death_.has_value() || stopping_) {
      return;
    }
    if (cgroup_.has_value() && cgroup_->OutOfMemoryKills() != 0) {
      reason +=
          ", killed by the host: guest and processes used more than guest memory and "
          "overhead.memory together; raise overhead.memory";
    }
    if (EndedForWantOfMemory(ConsoleLog().text)) {
      reason +=
          ": the guest as a whole ran out of memory, says its kernel; raise sandbox.memory, or "
          "give "
          "containers limits";
    }
    death_ = reason;
    processes = AllProcesses();
    callback = on_death_;
    death_told_ = callback != nullptr;
  }
  WV_ERROR("sandbox {} died: {}", options_.id, reason);
  events_.Add(observe::EventKind::kDied, "", reason);
  LogConsole();
  for (const ProcessPtr& process : processes) {
    SetExited(process, 128 + SIGKILL);
  }
  // A VMM whose file server is gone would hang on: all of it ends, and so do calls to the agent that are under way.
  pool_->Run([this] {
    machine_->End();
    static_cast<void>(CloseNetwork());  // Shutdown tries again, and says why not
  });
  if (callback) {
    pool_->Run([callback, reason] { callback(reason); });
  }
}

// What a kernel said last is the only account of its end; the ring ends with the sandbox.
void SandboxImpl::LogConsole() {
  constexpr size_t kShown = 2000;
  const std::string console = ConsoleLog().text;
  if (!console.empty()) {
    WV_ERROR("sandbox {}: the guest's console ends with: {}", options_.id,
             std::string_view(console).substr(console.size() - std::min(console.size(), kShown)));
  }
}

void SandboxImpl::OnDeath(std::function<void(std::string reason)> callback) {
  std::string reason;
  {
    const std::lock_guard lock(mu_);
    on_death_ = callback;
    if (!death_.has_value() || death_told_) {
      return;
    }
    death_told_ = true;
    reason = *death_;
  }
  pool_->Run([callback = std::move(callback), reason] { callback(reason); });
}

void SandboxImpl::OnOom(std::function<void(std::string container_id)> callback) {
  const std::lock_guard lock(mu_);
  on_oom_ = std::move(callback);
}

// Everything that waits is let go; what is still being made or deleted by other threads comes to its end.
std::vector<SandboxImpl::ContainerPtr> SandboxImpl::Settle() {
  std::vector<ContainerPtr> left;
  std::unique_lock lock(mu_);
  changed_.wait(lock, [this] { return busy_ == 0; });
  left.reserve(containers_.size());
  for (const auto& [id, container] : containers_) {
    left.push_back(container);
  }
  const std::vector<ProcessPtr> processes = AllProcesses();
  lock.unlock();
  for (const ProcessPtr& process : processes) {
    SetExited(process, 128 + SIGKILL);
  }
  return left;
}

Result<> SandboxImpl::ReleaseAll() {
  Result<> first;
  const auto keep = [&first](Result<> result) {
    if (!result.has_value() && first.has_value()) {
      WV_WARN("shutting down: {}", result.error().message());
      first = std::move(result);
    }
  };
  for (const ContainerPtr& container : Settle()) {
    UnwatchAnchor(container);
    auto released =
        container->host == nullptr ? Result<>() : container->host->Release(GuestState::kGone);
    RunPoststop(container);
    if (released.has_value()) {
      const std::lock_guard lock(mu_);
      containers_.erase(container->id);
    }
    keep(std::move(released));
  }
  // What is recorded still is left of a create that could not be undone, or of a release that failed above.
  if (state_ != nullptr) {
    keep(CleanRecordedContainers(config_.cgroup_root, state_->Snapshot()));
  }
  keep(CloseNetwork());
  if (volumes_ != nullptr) {
    volumes_->Close();
  }
  if (sockets_ != nullptr) {
    sockets_->Close();
  }
  network_.Reset();
  if (cgroup_.has_value()) {
    keep(RemoveCgroup(config_.cgroup_root, cgroup_->directory()));
  }
  if (state_ != nullptr && first.has_value()) {
    keep(state_->Remove());
  }
  return first;
}

Result<> SandboxImpl::Shutdown() {
  const std::lock_guard shutdown_lock(shutdown_mu_);
  if (shut_down_) {
    return {};
  }
  bool write_back = false;
  {
    const std::lock_guard lock(mu_);
    write_back = !death_.has_value() && !stopping_ && !containers_.empty();
    stopping_ = true;
    changed_.notify_all();
  }
  stop_hooks_.request_stop();
  if (write_back && agent_ != nullptr) {
    static_cast<void>(agent_->SyncFilesystems(config_.timeouts.shutdown));
  }
  if (machine_ != nullptr) {
    machine_->End();
  }
  if (agent_ != nullptr) {
    agent_->Close();
  }
  auto released = ReleaseAll();
  shut_down_ = released.has_value();
  return released;
}

}  // namespace wyvern::runtime
