// container/anchor_process.h — starts wyvern-anchor and ends it. See anchor/protocol.h.
// Threads: any.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/subprocess.h"

namespace wyvern::runtime {

struct AnchorOptions {
  std::string binary;      // its path, for lists of processes
  FdRef program{-1};       // that is run, O_PATH: what `binary` named when the sandbox began
  FdRef cgroup_procs{-1};  // O_WRONLY; not valid: stays in ours
  FdRef network_namespace{-1};
  FdRef root_tree{-1};
};

class AnchorProcess {
 public:
  // Returns when it is in place, at most five seconds later.
  static Result<AnchorProcess> Start(const AnchorOptions& options);

  pid_t pid() const { return process_.pid(); }

  const PidFd& pid_fd() const { return process_.pid_fd(); }

  // Closes its life line, kills it, reaps it.
  void End();

 private:
  AnchorProcess(Subprocess process, UniqueFd life)
      : process_(std::move(process)), life_(std::move(life)) {}

  Subprocess process_;
  UniqueFd life_;
  bool ended_ = false;
};

}  // namespace wyvern::runtime
