// cli/man.h — manual pages, written from the definition of the command line and from the table of configuration keys.
// Spec:    man(7), the macros that man-db and mandoc both know.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "base/error.h"

namespace wyvern::cli {

// All of them, by their place in an installation's payload: "share/man/man1/wyvern-run.1", "share/man/man5/wyvern.yaml.5".
std::map<std::string, std::string> ManPages(const CLI::App& app);
// `page`: "wyvern", "run", "guest import", "wyvern-run" or "wyvern.yaml". NOT_FOUND names those that are there.
Result<std::string> ManPage(const CLI::App& app, const std::string& page);

}  // namespace wyvern::cli
