// cli/exec_options.h — what the user asked of `wyvern exec`, and what follows from it.
#pragma once

#include <string>
#include <vector>

namespace wyvern::cli {

struct ExecOptions {
  std::string id;      // sandbox or container, as `ps` prints it; a unique prefix will do
  std::string ns;      // empty: any
  bool guest = false;  // outside of every container
  bool tty = false;
  bool interactive = false;  // standard input is passed
  std::vector<std::string> env;
  std::string cwd;
  std::string user;
  std::vector<std::string> command;
};

// Fills in what was left out: without a command (with `guest` only) the guest's shell, on a terminal where standard input is one; a
// terminal's input is passed, and its TERM; "K" in env gets our value, or is left out without one.
ExecOptions CompleteExecOptions(ExecOptions options, bool stdin_is_terminal);

}  // namespace wyvern::cli
