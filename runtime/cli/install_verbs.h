// cli/install_verbs.h — the options of `wyvern install` and `uninstall`.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "base/error.h"

namespace wyvern::cli {

// `action` becomes what the parsed command line asks for. Preconditions: it outlives the parsing, and `app` it.
void AddInstallation(CLI::App& app, std::function<Result<int>()>& action);

}  // namespace wyvern::cli
