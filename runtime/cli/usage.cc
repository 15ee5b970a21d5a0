#include "cli/usage.h"

#include <vector>

namespace wyvern::cli {

namespace {

// Takes the words of a command of its own as positional arguments.
bool RunsACommand(const CLI::App& app) {
  return app.get_option_no_throw("command") != nullptr;
}

// `where`: the innermost verb; `path`: how the user called it.
std::string DescribeUnknown(const CLI::App& where, const std::string& word) {
  if (!word.starts_with('-')) {
    return where.get_subcommands({}).empty() ? "unexpected argument \"" + word + "\""
                                             : "unknown command \"" + word + "\"";
  }
  return "unknown option " + word +
         (RunsACommand(where) ? " (options of the command to run come after \"--\")" : "");
}

}  // namespace

std::string UsageMessage(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* where = &app;
  std::string path = app.get_name();
  while (!where->get_subcommands().empty()) {
    where = where->get_subcommands().front();
    path += " " + where->get_name();
  }
  const std::vector<std::string> unknown = app.remaining(true);
  std::string what = unknown.empty() ? error.what() : DescribeUnknown(*where, unknown.front());
  if (unknown.empty() && where->get_require_subcommand_min() > 0) {
    what = "a command is required";
  }
  return path + ": " + what + "; see: " + path + " --help";
}

}  // namespace wyvern::cli
