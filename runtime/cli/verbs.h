// cli/verbs.h — the options of every verb of `wyvern`.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "base/error.h"

namespace wyvern::cli {

// `action` becomes what the parsed command line asks for. Preconditions: it outlives the parsing.
void AddVerbs(CLI::App& app, std::function<Result<int>()>& action);

}  // namespace wyvern::cli
