// wyvern-bench — the measurements that need a program; tests/bench/run.sh runs them and makes the table.
#include <CLI/CLI.hpp>

#include <fmt/format.h>

#include <charconv>
#include <cstdio>

#include "bench/drive.h"
#include "bench/measurements.h"

namespace {

using wyvern::bench::BootOptions;
using wyvern::bench::Exercise;

void AddExercise(CLI::App& verb, Exercise& exercise, std::vector<std::string>& streams) {
  verb.add_flag("--agent", exercise.agent, "wait until the agent answers");
  verb.add_option("--stream", streams, "ping:COUNT, pull:MIB or push:MIB; in this order");
  verb.add_flag("--done", exercise.done, "wait for BENCH done on the guest's console");
  verb.add_flag("--hold", exercise.hold, "leave the guest alone until stdin ends");
}

bool ParseStreams(const std::vector<std::string>& texts, Exercise& exercise) {
  for (const std::string& text : texts) {
    const size_t colon = text.find(':');
    if (colon == std::string::npos) {
      return false;
    }
    uint64_t count = 0;
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + colon + 1, end, count);
    if (error != std::errc() || rest != end) {
      return false;
    }
    exercise.streams.emplace_back(text.substr(0, colon), count);
  }
  return true;
}

CLI::App* AddDrive(CLI::App& app, wyvern::bench::DriveOptions& options) {
  CLI::App* verb = app.add_subcommand("drive", "a guest of wyvern-vmm, step by step (drive.h)");
  verb->add_option("--vmm", options.vmm)->required();
  verb->add_option("--fs", options.fs, "wyvern-fs, for devices of kind fs");
  verb->add_option("--kernel", options.kernel)->required();
  verb->add_option("--initrd", options.initrd);
  verb->add_option("--cmdline", options.cmdline);
  verb->add_option("--memory", options.memory, "bytes");
  verb->add_option("--hotplug-memory", options.hotplug_memory, "bytes");
  verb->add_option("--vcpus", options.vcpus);
  verb->add_option("--max-vcpus", options.max_vcpus);
  return verb;
}

int Report(const wyvern::Result<>& result) {
  if (!result) {
    fmt::print(stderr, "wyvern-bench: {}\n", result.error().DebugString());
  }
  return result ? 0 : 1;
}

}  // namespace

// NOLINTNEXTLINE(bugprone-exception-escape): CLI11 throws more only for options declared wrong: our bug, and it ends us.
int main(int argc, char** argv) {
  CLI::App app("measures Wyvern; one JSON object per line");
  app.require_subcommand(1);
  std::string binary;
  int runs = 5;
  CLI::App* first = app.add_subcommand("first-answer", "VMM exec to first API answer");
  first->add_option("--vmm", binary)->required();
  first->add_option("--runs", runs);

  BootOptions boot;
  std::vector<std::string> streams;
  CLI::App* ours = app.add_subcommand("boot", "a guest of wyvern-vmm");
  ours->add_option("--vmm", boot.vmm)->required();
  ours->add_option("--kernel", boot.kernel)->required();
  ours->add_option("--initrd", boot.initrd);
  ours->add_option("--image", boot.image, "persistent memory, read-only");
  ours->add_option("--cmdline", boot.cmdline);
  ours->add_option("--memory", boot.memory, "bytes");
  ours->add_option("--fs", boot.fs_binary, "wyvern-fs; exports --export as x");
  ours->add_option("--export", boot.export_directory);
  ours->add_option("--vhost-user", boot.vhost_user_socket, "socket of another file server");
  ours->add_option("--dax-window", boot.dax_window, "bytes of the file server's DAX window");
  ours->add_option("--disk", boot.disk);
  ours->add_flag("--shared", boot.shared_memory, "guest memory as a memfd in any case");
  AddExercise(*ours, boot.exercise, streams);

  Exercise exercise;
  uint32_t cid = 0;
  std::vector<std::string> command;
  CLI::App* peer = app.add_subcommand("peer", "a guest of another VMM");
  peer->add_option("--cid", cid)->required();
  AddExercise(*peer, exercise, streams);
  peer->add_option("command", command)->required();

  wyvern::bench::DriveOptions drive_options;
  const CLI::App* drive = AddDrive(app, drive_options);

  CLI11_PARSE(app, argc, argv);
  if (!ParseStreams(streams, *ours ? boot.exercise : exercise)) {
    fmt::print(stderr, "wyvern-bench: --stream needs KIND:COUNT\n");
    return 2;
  }
  if (*first) {
    return Report(wyvern::bench::FirstAnswer(binary, runs));
  }
  if (*drive) {
    return Report(wyvern::bench::Drive(drive_options));
  }
  return Report(*ours ? wyvern::bench::Boot(boot)
                      : wyvern::bench::BootPeer(command, cid, exercise));
}
