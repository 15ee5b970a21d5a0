// sandbox_api/service.h — containerd.runtime.sandbox.v1.Sandbox: the life of a pod without a container of its own (`sandboxer = "shim"`). The
// second way to a runtime::Sandbox beside the first Create of task/service.h; containers come by the task service in both.
// Spec:    containerd api/runtime/sandbox/v1/sandbox.proto. One sandbox per shim, with the shim's id.
// Life:    CreateSandbox writes the bundle (pod_bundle.h); StartSandbox boots the machine and starts the anchor, whose pid CRI makes the
//          containers' namespaces of; the pod's end (StopSandbox, the anchor's, the machine's) ends the containers first, then WaitSandbox
//          answers, then the machine goes. ShutdownSandbox ends the shim, in every state. There is no task and there are no events of it.
// Errors:  NOT_FOUND another id, or CreateSandbox did not come yet; ALREADY_EXISTS; INVALID_ARGUMENT; FAILED_PRECONDITION for what the state
//          forbids; UNAVAILABLE where a stop came in between. StopSandbox of what has ended is no error.
// Threads: every method from any thread. Platform, SandboxStatus, PingSandbox and WaitSandbox do not block; the others run on the pool.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "sandbox_api/pod_bundle.h"
#include "task/service.h"
#include "ttrpc/blocking.h"

namespace wyvern::shim {

using WaitSandboxResponder = ttrpc::Responder<sandbox_pb::WaitSandboxResponse>;

struct SandboxServiceOptions {
  std::string ns;
  std::string id;
  // Without StopSandbox's timeout_secs: so long may containers take to be killed and to write back what they wrote.
  std::chrono::milliseconds stop_patience{10'000};
};

class SandboxService {
 public:
  // The references outlive the service.
  SandboxService(SandboxServiceOptions options, TaskService& tasks, ttrpc::BlockingPool& pool);
  ~SandboxService();  // waits for the end of a sandbox that runs
  SandboxService(const SandboxService&) = delete;
  SandboxService& operator=(const SandboxService&) = delete;

  Result<pb::Empty> Create(const sandbox_pb::CreateSandboxRequest& request);
  Result<sandbox_pb::StartSandboxResponse> Start(const sandbox_pb::StartSandboxRequest& request);
  Result<sandbox_pb::PlatformResponse> Platform(const sandbox_pb::PlatformRequest& request);
  Result<pb::Empty> Stop(const sandbox_pb::StopSandboxRequest& request);
  Result<sandbox_pb::SandboxStatusResponse> Status(const sandbox_pb::SandboxStatusRequest& request);
  Result<pb::Empty> Ping(const sandbox_pb::PingRequest& request);
  Result<pb::Empty> Shutdown(const sandbox_pb::ShutdownSandboxRequest& request);
  // The sum of its containers' figures.
  Result<sandbox_pb::SandboxMetricsResponse> Metrics(
      const sandbox_pb::SandboxMetricsRequest& request);
  // Answers when the sandbox has ended.
  void Wait(const sandbox_pb::WaitSandboxRequest& request, WaitSandboxResponder responder);

 private:
  enum class State : uint8_t { kNone, kCreating, kCreated, kStarting, kRunning, kEnded };

  // With mu_ held.
  Result<> CheckIdLocked(const std::string& id) const;
  void EndLocked(const runtime::ExitInfo& exit);

  Result<> StartPod();
  void AwaitEnd(const std::shared_ptr<runtime::Sandbox>& box);
  void EndPod(std::chrono::milliseconds patience);

  const SandboxServiceOptions options_;
  TaskService& tasks_;
  ttrpc::BlockingPool& pool_;

  std::mutex mu_;
  std::condition_variable changed_;
  // Guarded by mu_:
  State state_ = State::kNone;
  SandboxRequest request_;                 // set by Create, constant from kCreated on
  std::shared_ptr<runtime::Sandbox> box_;  // while it runs
  bool machine_gone_ = false;              // after it ran
  pid_t pid_ = 0;
  std::chrono::system_clock::time_point created_at_;
  std::optional<runtime::ExitInfo> exit_;
  std::vector<WaitSandboxResponder> waiters_;
};

}  // namespace wyvern::shim
