// agent/guest_processes.h — processes in the guest itself, outside of every container: `wyvern exec --guest`.
// Shape:   the agent starts a copy of itself (kGuestExecArgument) that makes the terminal its own, changes user and directory, and
//          becomes the program, or says through a pipe why it cannot: the loop never waits, and nothing runs between fork and exec.
// Life:    a process ends by itself, by a signal, or with the guest. It stays in the agent's control group: no container's limits.
// Errors:  those of a ProcessTable; the system's for a program that cannot be run, which has ended then: 127 (not found), 126.
// Trust:   only the host asks for these; whether it may is decided there (guest.debug_exec).
// Threads: the loop's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "agent/process_table.h"

namespace wyvern::agent {

// argv[1] of the copy.
inline constexpr char kGuestExecArgument[] = "--guest-exec";

class GuestProcesses final : public ProcessTable {
 public:
  explicit GuestProcesses(Environment& environment)
      : ProcessTable("the guest"), environment_(environment) {}

  // Takes `request.guest()`.
  Result<> AddProcess(const v1::AddProcessRequest& request) override;
  void StartProcess(const std::string& exec_id, PidDone done) override;
  Result<> Signal(const std::string& exec_id, uint32_t signal, bool all) override;
  // SIGKILL to all of them; for the end of the sandbox.
  void KillAll();

 private:
  Result<> Spawn(const std::shared_ptr<Process>& process, const PidDone& done);
  // Calls `done` once the pipe has ended: without a word when the program runs.
  Result<> AwaitLaunch(const std::shared_ptr<Process>& process, UniqueFd pipe, const PidDone& done);
  static void Launched(Process& process, const std::string& failure, const PidDone& done);

  Environment& environment_;
};

// The copy: `args` are those behind kGuestExecArgument. Returns, with the exit status, only when the program cannot be run.
int RunGuestProgram(const std::vector<std::string>& args);

}  // namespace wyvern::agent
