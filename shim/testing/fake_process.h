// testing/fake_process.h — a local process in the role of a container's: created (waits before exec) → running → stopped.
// Threads: any; Wait blocks until it has ended.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/event_fd.h"
#include "sandbox/sandbox.h"

namespace wyvern::shim {

struct FakeProcessOptions {
  std::vector<std::string> args;
  std::vector<std::string> env;
  std::string cwd = "/";
  std::string root;  // chroot there when not empty
  runtime::IoWanted io;
};

class FakeProcess {
 public:
  // NOT_FOUND when the program does not exist.
  static Result<std::unique_ptr<FakeProcess>> Create(const FakeProcessOptions& options,
                                                     runtime::ProcessIo* io);
  // Kills it and everything in its process group.
  ~FakeProcess();
  FakeProcess(const FakeProcess&) = delete;
  FakeProcess& operator=(const FakeProcess&) = delete;

  Result<> Start();
  Result<> Signal(int signal, bool group);
  Result<> Resize(uint32_t rows, uint32_t columns);
  runtime::ExitInfo Wait();
  runtime::ProcessState State();

 private:
  FakeProcess() = default;
  void Reap();
  Result<> OpenTerminal(runtime::ProcessIo* io, int* theirs);
  void PumpTerminal(UniqueFd from_client, UniqueFd to_client);

  pid_t pid_ = 0;
  bool terminal_ = false;
  UniqueFd barrier_;
  UniqueFd pty_;
  std::thread reaper_;
  std::thread to_terminal_;
  std::thread from_terminal_;
  UniqueFd input_;  // our duplicate, to end the pump

  std::mutex mu_;
  std::condition_variable changed_;
  runtime::ProcessStatus status_ = runtime::ProcessStatus::kCreated;  // guarded by mu_
  std::optional<runtime::ExitInfo> exit_;                             // guarded by mu_
};

// The program as execve wants it, found in PATH of `env` below `root`; empty when there is none.
std::string FindProgram(const std::string& name, const std::vector<std::string>& env,
                        const std::string& root);

}  // namespace wyvern::shim
