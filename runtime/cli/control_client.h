// cli/control_client.h — talks to living sandboxes through their control sockets.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/sandbox_ref.h"
#include "proto/control.pb.h"
#include "ttrpc/client.h"

namespace wyvern::cli {

// For what a sandbox answers at once.
inline constexpr std::chrono::milliseconds kQueryTimeout(5000);

inline constexpr const char* kControlService = "wyvern.control.v1.Control";

struct LivingSandbox {
  std::unique_ptr<ttrpc::Client> client;
  control::v1::HelloResponse hello;
  std::string directory;  // its state
};

// Whose control socket in that directory answers within a second.
Result<LivingSandbox> ConnectSandbox(const std::string& directory);

// All sandboxes whose control socket answers within a second, by namespace and id; dead leftovers are passed over.
Result<std::vector<LivingSandbox>> ListSandboxes(const std::string& state_dir);

struct FoundContainer {
  LivingSandbox sandbox;
  std::string container_id;  // empty: the sandbox has none
};

// The container of that id, else the first of the sandbox of that id, else what alone begins with `id`. NOT_FOUND, or INVALID_ARGUMENT when
// several are meant, in several namespaces or of one beginning: it lists them.
Result<FoundContainer> FindContainer(const std::string& state_dir, const SandboxRef& ref);
// The same for whom one container of the sandbox is as good as another.
Result<LivingSandbox> FindSandbox(const std::string& state_dir, const SandboxRef& ref);

}  // namespace wyvern::cli
