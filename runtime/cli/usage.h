// cli/usage.h — what a wrong command line is answered: one line that names what is wrong, and where help is.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

namespace wyvern::cli {

// `error` is what parsing `app` threw; help that was asked for is none. An unknown word goes before what is missing.
std::string UsageMessage(const CLI::App& app, const CLI::ParseError& error);

}  // namespace wyvern::cli
