#include "cli/exec_options.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace wyvern::cli {

namespace {

constexpr const char* kGuestShell = "/bin/sh";
constexpr const char* kPlainTerminal = "xterm";

const char* OurValue(const std::string& name) {
  return std::getenv(name.c_str());  // NOLINT(concurrency-mt-unsafe): nobody changes it
}

std::vector<std::string> CompleteEnvironment(const std::vector<std::string>& env, bool tty) {
  std::vector<std::string> complete;
  for (const std::string& entry : env) {
    if (entry.find('=') != std::string::npos) {
      complete.push_back(entry);
    } else if (const char* value = OurValue(entry); value != nullptr) {
      complete.push_back(entry + "=" + value);
    }
  }
  const bool has_term = std::any_of(complete.begin(), complete.end(), [](const std::string& entry) {
    return entry.starts_with("TERM=");
  });
  if (tty && !has_term) {
    const char* ours = OurValue("TERM");
    complete.push_back(std::string("TERM=") + (ours != nullptr ? ours : kPlainTerminal));
  }
  return complete;
}

}  // namespace

ExecOptions CompleteExecOptions(ExecOptions options, bool stdin_is_terminal) {
  if (options.command.empty()) {
    options.command = {kGuestShell};
    options.interactive = true;
    options.tty = options.tty || stdin_is_terminal;
  }
  options.interactive = options.interactive || options.tty;
  options.env = CompleteEnvironment(options.env, options.tty);
  return options;
}

}  // namespace wyvern::cli
