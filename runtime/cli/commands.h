// cli/commands.h — the verbs of `wyvern`. Each returns the exit code; an Error is printed with its remedy by main.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/exec_options.h"
#include "cli/run_spec.h"
#include "cli/sandbox_ref.h"

namespace wyvern::cli {

struct CheckOptions {
  bool json = false;
  bool kvm_only = false;
};

// 0: everything that Wyvern needs is here; 1: something is missing (each line says what to do).
Result<int> Check(const CheckOptions& options);

Result<int> Env(bool json);

// The container's exit code (128 + n for a signal); 125 is main's code for an Error.
Result<int> Run(const RunOptions& options);

Result<int> Ps(bool json);
Result<int> Logs(const SandboxRef& sandbox);
Result<int> Timeline(const SandboxRef& sandbox);  // JSON, as `run --timeline` writes it

// The command's exit code, as Run.
Result<int> Exec(const ExecOptions& options);

struct ConfigOptions {
  bool effective = false;
  SandboxRef sandbox;  // with effective: a living one; without id: the next one
  std::string file;    // with effective and no id: on top of /etc/wyvern/wyvern.yaml
};

Result<int> ShowConfig(const ConfigOptions& options);
Result<int> ConfigImport(const std::string& file);  // of Kata Containers

struct MetricsOptions {
  SandboxRef sandbox;
  bool node = false;   // of all in place of one
  std::string listen;  // with node: on this unix socket, until SIGINT or SIGTERM
};

Result<int> Metrics(const MetricsOptions& options);

struct TopOptions {
  SandboxRef sandbox;  // without id: all
  double interval = 2;
  uint32_t count = 0;  // 0: for ever
};

Result<int> Top(const TopOptions& options);

struct EventsOptions {
  SandboxRef sandbox;  // without id: all
  bool json = false;
  bool only_new = false;
};

// With an id until that sandbox ends, else for ever.
Result<int> Events(const EventsOptions& options);

// Removes what `run` unpacked and no run uses. FAILED_PRECONDITION names what could not be removed.
Result<int> ImagePrune();

Result<int> Version();

}  // namespace wyvern::cli
