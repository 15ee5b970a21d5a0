// task/service.h — containerd's task API over one sandbox. The order in which containerd calls it is in shim/README.md.
// Errors:  the codes containerd's clients rely on: NOT_FOUND unknown id, or kill of what has ended; ALREADY_EXISTS duplicates;
//          FAILED_PRECONDITION for what the state forbids; UNIMPLEMENTED for Checkpoint.
// Events:  create → start → exit → delete; exec-added → exec-started → exit; one exit per process that ran; the init's exit is the last.
//          An exec whose container ends inside its Start: Start says FAILED_PRECONDITION, no event but exec-added; who waits is told.
// Threads: every method from any thread. State, Wait, Connect, CloseIo do not block; the others block in the sandbox and run on the pool.
// Death:   when the sandbox dies every process gets its exit (137); Kill then says NOT_FOUND and Delete succeeds.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "events/publisher.h"
#include "task/options.h"
#include "task/process.h"
#include "ttrpc/blocking.h"

namespace wyvern::shim {

// What the first Create of a shim asks of the runtime.
struct SandboxRequest {
  std::string ns;
  std::string id;
  std::string bundle;
  CreateOptions options;
  std::stop_token cancel;  // Terminate does not wait for a guest to boot
};

struct TaskServiceOptions {
  std::string ns;
  std::function<Result<std::unique_ptr<runtime::Sandbox>>(const SandboxRequest&)> start_sandbox;
  // The sandbox lives; before the first container is made in it. May be null.
  std::function<void(runtime::Sandbox&)> on_sandbox;
  // The sandbox is about to be shut down, and: it is down. May be null.
  std::function<void()> on_sandbox_ending;
  std::function<void()> on_sandbox_gone;
  // From here on there is no new container: whoever comes next needs another server. Before the call that ends us is answered; called once,
  // with the service locked. May be null.
  std::function<void()> on_ending;
  // The process may end now; called once.
  std::function<void()> on_shutdown;
  // Where clients get stdio by streams; of the loop that moves stdio. May be null.
  std::shared_ptr<StreamHub> streams;
  std::chrono::milliseconds drain_patience{10000};
  // Execs have so long to end after their container's init; then they count as killed.
  std::chrono::milliseconds exec_exit_patience{5000};
};

struct ContainerSummary {
  std::string id;
  std::string bundle;
  runtime::ProcessStatus status;
  pid_t pid;
  std::chrono::system_clock::time_point created_at;
};

class TaskService {
 public:
  // `loop` moves stdio and runs on a thread of its own; all references outlive the service.
  TaskService(TaskServiceOptions options, EventLoop& loop, EventSink& events,
              ttrpc::BlockingPool& pool);
  ~TaskService();
  TaskService(const TaskService&) = delete;
  TaskService& operator=(const TaskService&) = delete;

  Result<task_pb::CreateTaskResponse> Create(const task_pb::CreateTaskRequest& request);
  Result<task_pb::StartResponse> Start(const task_pb::StartRequest& request);
  Result<task_pb::DeleteResponse> Delete(const task_pb::DeleteRequest& request);
  Result<pb::Empty> Exec(const task_pb::ExecProcessRequest& request);
  Result<pb::Empty> Kill(const task_pb::KillRequest& request);
  Result<pb::Empty> Pause(const task_pb::PauseRequest& request);
  Result<pb::Empty> Resume(const task_pb::ResumeRequest& request);
  Result<pb::Empty> Update(const task_pb::UpdateTaskRequest& request);
  Result<pb::Empty> ResizePty(const task_pb::ResizePtyRequest& request);
  Result<pb::Empty> CloseIo(const task_pb::CloseIORequest& request);
  Result<pb::Empty> Checkpoint(const task_pb::CheckpointTaskRequest& request);
  Result<task_pb::StateResponse> State(const task_pb::StateRequest& request);
  Result<task_pb::PidsResponse> Pids(const task_pb::PidsRequest& request);
  Result<task_pb::StatsResponse> Stats(const task_pb::StatsRequest& request);
  Result<task_pb::ConnectResponse> Connect(const task_pb::ConnectRequest& request);
  Result<pb::Empty> Shutdown(const task_pb::ShutdownRequest& request);
  // Answers when the process has ended.
  void Wait(const task_pb::WaitRequest& request, WaitResponder responder);

  // Ends the sandbox whatever runs in it, also one that is being started; exits are published. For SIGTERM.
  void Terminate();

  // For sandbox_api/service.h. From UseSandboxApi on, Create needs a sandbox that was started by StartSandbox, and Shutdown means nothing: who
  // made the sandbox ends it. FAILED_PRECONDITION: there is one already, or we are ending.
  Result<> UseSandboxApi();
  // Once. A StopSandbox meanwhile ends it with UNAVAILABLE; `request.cancel` is filled in here.
  Result<std::shared_ptr<runtime::Sandbox>> StartSandbox(SandboxRequest request);
  // Whatever runs in it, also one that is being started; the exits are published. Idempotent.
  void StopSandbox();

  // Nobody has asked for anything yet.
  bool Unused();

  std::vector<ContainerSummary> Containers();

 private:
  using ProcessPtr = std::shared_ptr<Process>;
  using ContainerPtr = std::shared_ptr<Container>;

  struct Found {
    ContainerPtr container;
    ProcessPtr process;
  };

  // With mu_ held.
  Result<Found> FindLocked(const std::string& id, const std::string& exec_id);
  Result<> CheckStartLocked(const Found& found) const;

  Result<std::shared_ptr<runtime::Sandbox>> EnsureSandbox(const SandboxRequest& request,
                                                          bool* created);
  // With create_mu_ held, and no sandbox there.
  Result<std::shared_ptr<runtime::Sandbox>> MakeSandbox(const SandboxRequest& request);
  std::shared_ptr<runtime::Sandbox> sandbox();
  void DropSandbox();
  Result<ContainerPtr> CreateInSandbox(const task_pb::CreateTaskRequest& request,
                                       const CreateOptions& options);
  Result<> StartExecIo(const Found& found);
  Result<> StartInSandbox(const Found& found);
  void AwaitExit(const ContainerPtr& container, const ProcessPtr& process);
  void AwaitExecs(const ContainerPtr& container);
  // Asks for the figures of a container whose init has ended.
  void KeepFigures(const ContainerPtr& container, runtime::Sandbox& box);
  void RecordExit(const ContainerPtr& container, const ProcessPtr& process,
                  const runtime::ExitInfo& exit);
  Result<> KillCreated(const Found& found);
  Result<> DeleteInSandbox(const Found& found);
  void Forget(const Found& found);
  // False: it is ending already. With mu_ held.
  bool BeginEndingLocked();
  void OnSandboxDeath(const std::string& reason);
  void EndSandbox();

  template <typename Event>
  void Publish(std::string_view topic, const Event& event);

  const TaskServiceOptions options_;
  EventLoop& loop_;
  EventSink& events_;
  ttrpc::BlockingPool& pool_;

  std::mutex create_mu_;  // serialises the start of the sandbox; taken before mu_
  std::mutex mu_;
  std::condition_variable changed_;
  std::stop_source stop_start_;
  // Guarded by mu_:
  std::map<std::string, ContainerPtr> containers_;
  std::set<std::string> creating_;
  std::shared_ptr<runtime::Sandbox> sandbox_;
  bool sandbox_dead_ = false;
  bool by_sandbox_api_ = false;
  bool shutdown_when_empty_ = false;
  bool shutting_down_ = false;
  bool sandbox_ended_ = false;
};

}  // namespace wyvern::shim
