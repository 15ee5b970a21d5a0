// base/subprocess.h — starts a program with exactly the descriptors it was given, and holds it by
// pidfd.
// Ownership:fds are borrowed for the call; the child gets duplicates at the numbers named.
//          Everything else is close-on-exec.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/event_fd.h"
#include "base/fd.h"

namespace wyvern {

struct SpawnOptions {
  std::vector<std::string> argv;  // argv[0] is looked up as a path, never in $PATH
  std::vector<std::string> env;   // "K=V"; the parent's environment is not inherited
  std::vector<std::pair<int, FdRef>>
      fds;          // child's number ← our fd. 0, 1, 2 not named are /dev/null
  std::string cwd;  // empty: the parent's
  bool new_process_group = false;
  bool new_session = false;
  std::string path = {};  // of the program, where that is not argv[0]
};

class Subprocess {
 public:
  // posix_spawn(3): no code of ours runs between fork and exec. Signal mask and handlers are reset
  // in the child.
  static Result<Subprocess> Spawn(const SpawnOptions& options);

  pid_t pid() const { return pid_fd_.pid(); }

  const PidFd& pid_fd() const { return pid_fd_; }

  Result<> Kill(int signal) const { return pid_fd_.Kill(signal); }

  // Blocks until it has exited; may be called once.
  Result<ExitStatus> Wait() const;

 private:
  explicit Subprocess(PidFd pid_fd) : pid_fd_(std::move(pid_fd)) {}

  PidFd pid_fd_;
};

// Runs to the end and returns its output; for host tools (mkfs, losetup). `timeout_ms`: SIGKILL
// then, DEADLINE_EXCEEDED.
struct CommandOutput {
  ExitStatus status;
  std::string out;
  std::string err;
};

Result<CommandOutput> RunCommand(const SpawnOptions& options, int timeout_ms,
                                 size_t output_limit = 1 << 20);

}  // namespace wyvern
