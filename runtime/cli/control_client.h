// cli/control_client.h — talks to living sandboxes through their control sockets.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "proto/control.pb.h"
#include "ttrpc/client.h"

namespace wyvern::cli {

inline constexpr const char* kControlService = "wyvern.control.v1.Control";

struct LivingSandbox {
  std::unique_ptr<ttrpc::Client> client;
  control::v1::HelloResponse hello;
};

// All sandboxes whose control socket answers within a second; dead leftovers are passed over.
Result<std::vector<LivingSandbox>> ListSandboxes(const std::string& state_dir);

struct FoundContainer {
  LivingSandbox sandbox;
  std::string container_id;  // empty: the sandbox has none
};

// The container whose id is, or uniquely begins with, `id` (or the first container of the sandbox of that id, if it has any).
// NOT_FOUND, or INVALID_ARGUMENT when several match.
Result<FoundContainer> FindContainer(const std::string& state_dir, const std::string& id);

}  // namespace wyvern::cli
