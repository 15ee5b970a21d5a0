// sandbox/cleanup.h — CleanUp (sandbox.h) with the places given. For CleanUp itself and for tests.
#pragma once

#include <string>

#include "base/error.h"

namespace wyvern::runtime {

struct Places {
  std::string state_dir, cgroup_root;
};

Result<> CleanUpIn(const Places& places, const std::string& ns, const std::string& id,
                   const std::string& bundle);

}  // namespace wyvern::runtime
