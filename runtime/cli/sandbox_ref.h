// cli/sandbox_ref.h — what the user calls a living sandbox, or a container of it.
#pragma once

#include <string>

namespace wyvern::cli {

struct SandboxRef {
  std::string id;  // sandbox or container, as `ps` prints it; a unique prefix will do
  std::string ns;  // empty: any
};

}  // namespace wyvern::cli
