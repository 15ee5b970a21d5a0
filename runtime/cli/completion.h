// cli/completion.h — completion of wyvern's command line in shells, written from its definition.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "base/error.h"

namespace wyvern::cli {

// bash, zsh or fish. INVALID_ARGUMENT: another.
Result<std::string> CompletionScript(const CLI::App& app, const std::string& shell);
// All of them, by their place in an installation's payload: "share/completions/wyvern.bash".
std::map<std::string, std::string> Completions(const CLI::App& app);

}  // namespace wyvern::cli
