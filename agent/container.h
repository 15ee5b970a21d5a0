// agent/container.h — one container: its init process, its execs, its control group; crun does the work.
// Life:    Create → StartProcess("") → (AddProcess → StartProcess(exec))* → init exits → Delete. The id may then be used again.
// Errors:  those of a ProcessTable; UNKNOWN with crun's text when crun refuses.
// Threads: the loop's thread. Callbacks are called once; a container lives until its last one was.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/cgroup.h"
#include "agent/crun.h"
#include "agent/oom_watch.h"
#include "agent/process_table.h"
#include "agent/reaper.h"
#include "base/event_loop.h"
#include "proto/agent.pb.h"
#include "ttrpc/call.h"

namespace wyvern::agent {

// Device and inode of what a process runs.
using ProgramId = std::pair<dev_t, ino_t>;

class Container final : public ProcessTable, public std::enable_shared_from_this<Container> {
 public:
  using Done = std::function<void(Result<>)>;
  using ExitDone = std::function<void(Result<v1::WaitProcessResponse>)>;

  Container(Environment& environment, std::string id);
  ~Container() override;
  Container(const Container&) = delete;
  Container& operator=(const Container&) = delete;

  const std::string& id() const { return id_; }

  // Writes the bundle, runs `crun create`. After an error nothing is left.
  void Create(const v1::CreateContainerRequest& request, PidDone done);
  Result<> AddProcess(const v1::AddProcessRequest& request) override;
  void StartProcess(const std::string& exec_id, PidDone done) override;
  Result<> Signal(const std::string& exec_id, uint32_t signal, bool all) override;
  // `crun delete`, and all that is left. Several may wait for it.
  void Delete(ExitDone done);
  void Freeze(bool freeze, Done done);
  void Update(const std::string& resources_json, Done done);
  Result<v1::ListProcessesResponse> List() const;
  Result<v1::ContainerStatsResponse> Stats() const;
  // SIGKILL to all of it; for the end of the sandbox.
  void KillAll();

 private:
  Result<std::shared_ptr<Process>> Find(const std::string& exec_id) const override;
  Result<> WriteBundle(const v1::CreateContainerRequest& request);
  Result<pid_t> Created(const Spawned& spawned);
  void StartExec(const std::string& exec_id, const std::shared_ptr<Process>& process, PidDone done);
  Result<pid_t> ExecStarted(const std::shared_ptr<Process>& process, const Spawned& spawned);
  void AwaitProgram(std::chrono::milliseconds next, std::chrono::steady_clock::time_point deadline,
                    PidDone done);
  void OnInitExit(ExitStatus status);
  void RemoveFiles();
  void PollFrozen(bool freeze, int polls_left, Done done);

  Environment& environment_;
  const std::string id_;
  const std::string bundle_;
  std::shared_ptr<Process> init_;
  Cgroup cgroup_;
  ProgramId crun_program_{};        // init's, before it is started
  bool own_pid_namespace_ = false;  // its init is the first of it
  uint64_t file_counter_ = 0;
  std::vector<ExitDone> deletions_;  // not empty: being deleted
};

}  // namespace wyvern::agent
