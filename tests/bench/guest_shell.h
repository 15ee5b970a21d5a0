// bench/guest_shell.h — commands in the guest itself, by its agent, over the vsock device that the machine has at the moment.
// Errors:  the agent's; FAILED_PRECONDITION: not connected; DEADLINE_EXCEEDED: no answer, the command may run on in the guest.
// Threads: any. A command that runs keeps the connection it began with.
// Trust:   the guest's output is bounded by the caller's file or by kMaxText.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "agent_client/agent_client.h"
#include "base/fd.h"

namespace wyvern::bench {

struct CommandResult {
  uint32_t status = 0;
  uint64_t bytes = 0;  // of its output
  std::string text;    // its first bytes, if it did not go into a file
};

class GuestShell {
 public:
  static constexpr size_t kMaxText = 256 << 10;

  explicit GuestShell(runtime::GuestConnector connector) : connector_(std::move(connector)) {}

  // Instead of the connection there was, if any.
  Result<> Connect(std::chrono::milliseconds patience);
  // `sh -c script` as the guest's root; its standard output goes to `out` if that is valid.
  Result<CommandResult> Run(const std::string& script, FdRef out,
                            std::chrono::milliseconds patience);

 private:
  const runtime::GuestConnector connector_;
  std::mutex mu_;
  std::shared_ptr<runtime::AgentClient> agent_;  // guarded by mu_
  uint64_t next_ = 0;                            // guarded by mu_
};

}  // namespace wyvern::bench
