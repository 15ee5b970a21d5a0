// agent/container.h — one container: its init process, its execs, its control group; crun does the work.
// Life:    Create → StartProcess("") → (AddProcess → StartProcess(exec))* → init exits → Delete. The id may then be used again.
// Errors:  as the task API wants them: NOT_FOUND for what is unknown or finished, ALREADY_EXISTS, FAILED_PRECONDITION for the wrong
//          state; UNKNOWN with crun's text when crun refuses.
// Threads: the loop's thread. Callbacks are called once; a container lives until its last one was.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/cgroup.h"
#include "agent/crun.h"
#include "agent/oom_watch.h"
#include "agent/process_io.h"
#include "agent/reaper.h"
#include "base/event_loop.h"
#include "proto/agent.pb.h"
#include "ttrpc/call.h"

namespace wyvern::agent {

// What containers share; outlives them.
struct Environment {
  EventLoop& loop;
  Reaper& reaper;
  Crun& crun;
  StdioHub& stdio;
  OomWatch& oom;
  std::string containers_dir;
  std::string scratch_dir;
};

// [A-Za-z0-9][A-Za-z0-9_.-]{0,127}: a name that is safe as a path component.
bool IsValidId(const std::string& id);

class Container : public std::enable_shared_from_this<Container> {
 public:
  using WaitResponder = ttrpc::Responder<v1::WaitProcessResponse>;
  using PidDone = std::function<void(Result<pid_t>)>;
  using Done = std::function<void(Result<>)>;
  using ExitDone = std::function<void(Result<v1::WaitProcessResponse>)>;

  Container(Environment& environment, std::string id);
  ~Container();
  Container(const Container&) = delete;
  Container& operator=(const Container&) = delete;

  const std::string& id() const { return id_; }

  // Writes the bundle, runs `crun create`. After an error nothing is left.
  void Create(const v1::CreateContainerRequest& request, PidDone done);
  Result<> AddProcess(const v1::AddProcessRequest& request);
  // `exec_id` empty: the init process, here and below.
  void StartProcess(const std::string& exec_id, PidDone done);
  void Wait(const std::string& exec_id, WaitResponder responder);
  Result<> Signal(const std::string& exec_id, uint32_t signal, bool all);
  Result<> Resize(const std::string& exec_id, uint32_t rows, uint32_t columns);
  Result<> CloseStdin(const std::string& exec_id);
  Result<v1::WaitProcessResponse> DeleteExec(const std::string& exec_id);
  // `crun delete`, and all that is left. Several may wait for it.
  void Delete(ExitDone done);
  void Freeze(bool freeze, Done done);
  void Update(const std::string& resources_json, Done done);
  Result<v1::ListProcessesResponse> List() const;
  Result<v1::ContainerStatsResponse> Stats() const;
  // SIGKILL to all of it; for the end of the sandbox.
  void KillAll();

 private:
  enum class State : uint8_t { kCreating, kCreated, kStarting, kRunning, kExited };

  struct Process {
    State state = State::kCreated;
    pid_t pid = 0;
    std::string process_file;  // execs: for crun
    std::unique_ptr<ProcessIo> io;
    v1::WaitProcessResponse exit;
    std::vector<WaitResponder> waiters;
  };

  Result<std::shared_ptr<Process>> Find(const std::string& exec_id) const;
  Result<> WriteBundle(const v1::CreateContainerRequest& request);
  Result<pid_t> Created(const Spawned& spawned);
  void StartExec(const std::string& exec_id, const std::shared_ptr<Process>& process, PidDone done);
  Result<pid_t> ExecStarted(const std::shared_ptr<Process>& process, const Spawned& spawned);
  void OnInitExit(ExitStatus status);
  static void Exited(Process& process, uint32_t status);
  void RemoveFiles();
  void PollFrozen(bool freeze, int polls_left, Done done);

  Environment& environment_;
  const std::string id_;
  const std::string bundle_;
  std::shared_ptr<Process> init_;
  std::map<std::string, std::shared_ptr<Process>> execs_;
  Cgroup cgroup_;
  bool own_pid_namespace_ = false;
  uint64_t file_counter_ = 0;
  std::vector<ExitDone> deletions_;  // not empty: being deleted
};

}  // namespace wyvern::agent
