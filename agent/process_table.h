// agent/process_table.h — processes by exec id in one place: a container, or the guest itself.
// Life:    AddProcess → StartProcess → it ends → DeleteExec. Waiters are answered at its end.
// Errors:  as the task API wants them: NOT_FOUND for what is unknown or finished, ALREADY_EXISTS, FAILED_PRECONDITION for the wrong
//          state.
// Threads: the loop's thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/process_io.h"
#include "proto/agent.pb.h"
#include "ttrpc/call.h"

namespace wyvern::agent {

class Crun;
class IdleCache;
class OomWatch;
class Pod;
class Reaper;

// What all places share; outlives them.
struct Environment {
  EventLoop& loop;
  Reaper& reaper;
  Crun& crun;
  StdioHub& stdio;
  OomWatch& oom;
  IdleCache& idle_cache;
  Pod& pod;
  std::string containers_dir;
  std::string scratch_dir;
};

// [A-Za-z0-9][A-Za-z0-9_.-]{0,127}: a name that is safe as a path component.
bool IsValidId(const std::string& id);

class ProcessTable {
 public:
  using WaitResponder = ttrpc::Responder<v1::WaitProcessResponse>;
  using PidDone = std::function<void(Result<pid_t>)>;

  virtual ~ProcessTable() = default;
  ProcessTable(const ProcessTable&) = delete;
  ProcessTable& operator=(const ProcessTable&) = delete;

  virtual Result<> AddProcess(const v1::AddProcessRequest& request) = 0;
  // `exec_id` empty: a container's init process, here and below.
  virtual void StartProcess(const std::string& exec_id, PidDone done) = 0;
  // `all`: the whole container, or the process's group in the guest itself.
  virtual Result<> Signal(const std::string& exec_id, uint32_t signal, bool all) = 0;
  void Wait(const std::string& exec_id, WaitResponder responder);
  Result<> Resize(const std::string& exec_id, uint32_t rows, uint32_t columns);
  Result<> CloseStdin(const std::string& exec_id);
  Result<v1::WaitProcessResponse> DeleteExec(const std::string& exec_id);

 protected:
  enum class State : uint8_t { kCreating, kCreated, kStarting, kRunning, kExited };

  struct Process {
    State state = State::kCreated;
    pid_t pid = 0;
    std::string process_file;  // an exec in a container: for crun
    v1::GuestCommand command;  // in the guest itself
    std::unique_ptr<ProcessIo> io;
    v1::WaitProcessResponse exit;
    std::vector<WaitResponder> waiters;
  };

  using Execs = std::map<std::string, std::shared_ptr<Process>>;

  // `name`: for messages, "container x".
  explicit ProcessTable(std::string name) : name_(std::move(name)) {}

  const std::string& name() const { return name_; }

  Execs& execs() { return execs_; }

  const Execs& execs() const { return execs_; }

  virtual Result<std::shared_ptr<Process>> Find(const std::string& exec_id) const;
  // Refuses ids that are bad or taken.
  Result<> CheckNew(const std::string& exec_id) const;
  // Like Find, for one that runs and a signal that exists.
  Result<std::shared_ptr<Process>> FindToSignal(const std::string& exec_id, uint32_t signal) const;
  static void Exited(Process& process, uint32_t status);

 private:
  const std::string name_;
  Execs execs_;
};

}  // namespace wyvern::agent
