// wyvern — the command line. Exit codes: the container's own; 125 for a failure of ours; 2 for wrong usage.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/log.h"
#include "cli/usage.h"
#include "cli/verbs.h"

namespace {

using wyvern::Result;
namespace cli = wyvern::cli;

constexpr int kOurFailure = 125;
constexpr int kUsage = 2;

}  // namespace

// NOLINTNEXTLINE(bugprone-exception-escape): CLI11 throws more only for options declared wrong: our bug, and it ends us.
int main(int argc, char** argv) {
  wyvern::SetLogComponent("wyvern");
  CLI::App app{"Wyvern: containers in microVMs", "wyvern"};
  std::function<Result<int>()> action;
  cli::AddVerbs(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      return app.exit(error);  // help or the version
    }
    fprintf(stderr, "%s\n", cli::UsageMessage(app, error).c_str());
    return kUsage;
  }
  const auto code = action();
  if (!code) {
    fprintf(stderr, "wyvern: %s\n", code.error().message().c_str());
    return kOurFailure;
  }
  return *code;
}
