// control/exec_spec.h — the OCI process of an exec that came by the control socket.
#pragma once

#include <string>

#include "base/error.h"
#include "proto/control.pb.h"

namespace wyvern::shim {

// The container's own process (capabilities, user, environment, limits: `config_json` is its config.json) with what the request says put over it.
// An empty `config_json` (guest): a plain root process.
Result<std::string> MakeExecSpec(const std::string& config_json,
                                 const wyvern::control::v1::ExecRequest& request);

}  // namespace wyvern::shim
