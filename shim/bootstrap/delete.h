// bootstrap/delete.h — `delete`: undoes what a shim may have left, by a process that never saw it.
// Called after every task delete, after the death of a shim, and when containerd cannot reach one: idempotent, within 5 seconds, parallel.
#pragma once

#include <functional>
#include <string>

#include "base/error.h"
#include "bootstrap/args.h"

namespace wyvern::shim {

struct DeleteEnvironment {
  std::string bundle;  // -bundle, or the current directory
  std::string socket_dir;
  // runtime::CleanUp.
  std::function<Result<>(const std::string& ns, const std::string& id, const std::string& bundle)>
      clean_up;
};

// The DeleteResponse to print. Never waits longer than containerd does.
Result<std::string> RunDelete(const Args& args, const DeleteEnvironment& environment);

}  // namespace wyvern::shim
