// hypervisor/file_server_control.h — commands to wyvern-fs and its answers, in step.
// Wire:    SEQPACKET "<number> <command>" → "<number> ok" or "<number> error <text>" (sandbox-vmm/bin/fs/control.h). Numbers count up from 1;
//          the answer to a command that was given up on may still come, and is dropped.
// Threads: any; calls are serialised.   Trust: the file server reads what the guest writes: its answers are bounded in size and time.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::runtime {

class FileServerControl {
 public:
  explicit FileServerControl(UniqueFd socket,
                             std::chrono::milliseconds patience = std::chrono::seconds(10))
      : socket_(std::move(socket)), patience_(patience) {}

  // DEADLINE_EXCEEDED after `patience`: it may still be carried out.
  Result<> Command(const std::string& text);

 private:
  Result<> AwaitAnswer(uint64_t number);

  std::mutex mu_;
  UniqueFd socket_;                           // guarded by mu_
  const std::chrono::milliseconds patience_;  // for one answer
  uint64_t sent_ = 0;                         // number of the last command; guarded by mu_
};

}  // namespace wyvern::runtime
