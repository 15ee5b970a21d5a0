// cli/kata_import.h — `wyvern config import`: Kata Containers' configuration.toml as wyvern.yaml.
// Spec:    keys of kata-containers 3.x, src/runtime/config/configuration-*.toml.in and src/runtime-rs/config/.
// Shape:   YAML; each key with where it comes from; then a line of comment for each setting that has no counterpart, and why.
// Trust:   the administrator's file; any bytes are read, and what is no setting is none. Values go through the same checks as wyvern.yaml's.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace wyvern::cli {

// INVALID_ARGUMENT: there is no setting of Kata's in it, or a value cannot be one of ours (the message has its line).
Result<std::string> ImportKata(std::string_view toml, const std::string& name);

}  // namespace wyvern::cli
