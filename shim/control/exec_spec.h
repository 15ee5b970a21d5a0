// control/exec_spec.h — the OCI process of an exec that came by the control socket.
// Trust:   config.json is containerd's or ours; what is read from the container's root is the container's (user/user.h).
#pragma once

#include <functional>
#include <string>

#include "base/error.h"
#include "proto/control.pb.h"
#include "user/user.h"

namespace wyvern::shim {

// Of the container's root, as root.path of its config.json has it.
using UserFilesReader = std::function<Result<runtime::UserFiles>(const std::string& root_path)>;

// The container's own process (capabilities, user, environment, limits: `config_json` is its config.json) with what the request says put over it.
// `read_users` is asked only when the request names a user: that may be a name of the container, and has its groups there.
// An empty `config_json` (guest): a plain root process; its users are numbers.
Result<std::string> MakeExecSpec(const std::string& config_json,
                                 const wyvern::control::v1::ExecRequest& request,
                                 const UserFilesReader& read_users);

}  // namespace wyvern::shim
