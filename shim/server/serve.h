// server/serve.h — the shim's server process: one per sandbox, from `start` until Shutdown.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/log.h"
#include "bootstrap/args.h"
#include "sandbox/sandbox.h"
#include "task/service.h"

namespace wyvern::shim {

// What differs between the product and the tests.
struct RuntimeHooks {
  std::string version;
  std::function<Result<std::unique_ptr<runtime::Sandbox>>(const SandboxRequest&)> start_sandbox;
  std::function<Result<>(const std::string& ns, const std::string& id, const std::string& bundle)>
      clean_up;
  // Where the control service of a sandbox listens; empty: nowhere.
  std::function<std::string(const std::string& ns, const std::string& id)> control_socket;
  // The same for its metrics; empty: nowhere.
  std::function<std::string(const std::string& ns, const std::string& id)> metrics_socket;
  // A server that has neither a connection nor a container then ends: the `start` that made it was killed before it could tell its address.
  std::chrono::milliseconds connect_patience{60000};
};

// The configuration's, unless containerd's -debug asked for everything; `journal`: to systemd's journal, too, if there is one.
void UseLog(LogLevel configured, bool journal);

// Serves on the descriptors that `start` gave us until the sandbox is shut down, then ends the process. Returns only what failed before that.
Result<> Serve(const Args& args, const RuntimeHooks& hooks);

// The whole program: every dialect and action. Returns the exit code.
int ShimMain(int argc, char** argv, const RuntimeHooks& hooks);

}  // namespace wyvern::shim
