// wyvern-fsdiff — runs the script of a seed on a directory and prints what came out of each step, and
// the tree at the end. Two directories behave alike when the two logs are equal: one run on a share
// in a guest, one on a directory of the host's file system.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <string_view>

#include "fs/differential/host_target.h"
#include "fs/differential/runner.h"
#include "fs/differential/tree.h"

namespace {

constexpr const char* kUsage =
    "usage: wyvern-fsdiff --dir DIR [options]\n"
    "  --dir DIR     an empty directory\n"
    "  --seed N      of the script (1)\n"
    "  --steps N     of the script (20000)\n"
    "  --guest       leave out what a guest on a share may see otherwise: access times (its "
    "cache), POSIX\n"
    "                ACLs (its kernel refuses them), trusted xattrs (the file server may not set "
    "them)\n"
    "  --acls        with --guest: ACLs all the same, on a share that offers them\n"
    "  --beside      this is the directory that a share is compared with: what a share refuses is\n"
    "                refused\n"
    "The log of another directory is the same: compare them with diff.\n";

struct Arguments {
  std::string directory;
  uint64_t seed = 1;
  uint64_t steps = 20'000;
  wyvern::fs::differential::RunnerOptions runner;
};

bool ParseNumber(std::string_view text, uint64_t* out) {
  const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && at == text.data() + text.size();
}

bool ParseFlag(std::string_view name, wyvern::fs::differential::RunnerOptions* runner) {
  if (name == "--guest") {
    runner->access_times = runner->acls = runner->trusted_xattrs = false;
  } else if (name == "--acls") {
    runner->acls = true;
  } else if (name == "--beside") {
    runner->beside = true;
  } else {
    return false;
  }
  return true;
}

bool ParseArguments(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (ParseFlag(name, &arguments->runner)) {
      continue;
    }
    const std::string_view value = i + 1 < argc ? argv[++i] : "";
    if (name == "--dir") {
      arguments->directory = value;
    } else if (name == "--seed") {
      if (!ParseNumber(value, &arguments->seed)) {
        return false;
      }
    } else if (name != "--steps" || !ParseNumber(value, &arguments->steps)) {
      return false;
    }
  }
  return !arguments->directory.empty();
}

}  // namespace

// NOLINTNEXTLINE(bugprone-exception-escape): fmt throws when stdout is gone, which may end this
int main(int argc, char** argv) {
  Arguments arguments;
  if (!ParseArguments(argc, argv, &arguments)) {
    fmt::print(stderr, "{}", kUsage);
    return 2;
  }
  auto directory = wyvern::Open(arguments.directory, O_RDONLY | O_DIRECTORY);
  if (!directory) {
    fmt::print(stderr, "wyvern-fsdiff: {}\n", directory.error().message());
    return 1;
  }
  ::umask(0);
  ::syscall(SYS_setgroups, 0, nullptr);  // a user of the script has one group
  wyvern::fs::differential::HostTarget target(std::move(*directory));
  wyvern::fs::differential::Runner runner(target, arguments.runner);
  for (uint64_t i = 0; i < arguments.steps; ++i) {
    const auto step = wyvern::fs::differential::MakeStep(arguments.seed, i);
    fmt::print("{} {} -> {}\n", i, wyvern::fs::differential::Describe(step), runner.Run(step));
  }
  runner.CloseAll();
  fmt::print("{}", wyvern::fs::differential::DescribeTree(target, arguments.runner));
  return 0;
}
