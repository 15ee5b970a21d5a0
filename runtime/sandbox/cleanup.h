// sandbox/cleanup.h — CleanUp (sandbox.h) with the places given. For CleanUp itself and for tests.
#pragma once

#include <string>

#include "base/error.h"
#include "state/state.h"

namespace wyvern::runtime {

struct Places {
  std::string state_dir, cgroup_root;
};

// What the containers of `record` still have on the host: by a sandbox that ends, of its own.
Result<> CleanRecordedContainers(const std::string& cgroup_root, const SandboxRecord& record);

Result<> CleanUpIn(const Places& places, const std::string& ns, const std::string& id,
                   const std::string& bundle);

}  // namespace wyvern::runtime
