// hypervisor/file_server.h — wyvern-fs from outside: its process, its control socket, its mount namespace.
// Wire:    file_server_control.h: "attach <name> <cache ms> <rw|ro>" and "detach <name>"; "ping" is answered once it is confined.
// Threads: any; calls are serialised.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <string>

#include "base/fd.h"
#include "base/subprocess.h"
#include "hypervisor/file_server_control.h"
#include "hypervisor/machine.h"

namespace wyvern::runtime {

class FileServerProcess {
 public:
  // The vhost-user socket for the VMM is the second value.
  static Result<std::pair<std::unique_ptr<FileServerProcess>, UniqueFd>> Spawn(
      const MachineOptions& options);

  const Subprocess& process() const { return process_; }

  // The tree is mounted in the server's namespace first, then named to the server; undone on error.
  Result<> Attach(const std::string& name, FdRef tree, const ExportPolicy& policy);
  Result<> Detach(const std::string& name);

 private:
  FileServerProcess(Subprocess process, UniqueFd control)
      : process_(std::move(process)), control_(std::move(control)) {}

  Result<FdRef> MountNamespace();

  Subprocess process_;
  FileServerControl control_;
  std::mutex namespace_mu_;
  UniqueFd namespace_;  // guarded by namespace_mu_
};

}  // namespace wyvern::runtime
