// control/control_server.h — wyvern.control.v1 on a unix socket: what the CLI asks a living sandbox, whoever started it (shim or `wyvern run`).
// Life:    Start → … → Close (before Sandbox::Shutdown, which removes the directory the socket is in) → destroy after Shutdown.
// Threads: one loop thread of its own, a pool for what blocks, one for the metrics' socket. All methods from any thread but those.
// Trust:   root only: sockets 0600 and the peer's uid is checked.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sandbox/sandbox.h"

namespace wyvern::shim {

struct ControlContainer {
  std::string id;
  std::string bundle;
  runtime::ProcessStatus status = runtime::ProcessStatus::kCreated;
  pid_t pid = 0;
  std::chrono::system_clock::time_point created_at;
};

struct ControlOptions {
  std::string ns;  // of containerd, or that of `wyvern run`: ids are unique in it
  std::string sandbox_id;
  std::string version;
  std::function<std::vector<ControlContainer>()> containers;
  // Where the metrics are served, too, as Prometheus' text over HTTP (observe/text_server.h); empty: nowhere.
  std::string metrics_socket{};
  // Processes beside those that the sandbox knows of; they are ours, and not waited for before this is destroyed.
  std::map<std::string, pid_t> processes{};  // by role
};

class ControlServer {
 public:
  static constexpr uint32_t kProtocol = 1;

  // A stale file at `path` is replaced. `sandbox` lives until the server is destroyed.
  static Result<std::unique_ptr<ControlServer>> Start(const std::string& path,
                                                      runtime::Sandbox& sandbox,
                                                      ControlOptions options);
  // Waits for calls in flight: the sandbox must be down or answering.
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // Nobody is served any more; the socket's file is gone. Idempotent.
  void Close();

 private:
  class Impl;
  explicit ControlServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace wyvern::shim
