// install/containerd.h — the containerd of a system: which version it is, and our handler made known to it.
// Errors:  FAILED_PRECONDITION: containerd does not take its configuration, ours or the one that was there; then the files are as before.
// Blocks:  up to 10 s for each start of containerd, which reads its configuration and ends; nothing here talks to one that runs.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "install/manifest.h"

namespace wyvern::cli {

inline constexpr const char* kContainerdConfig = "/etc/containerd/config.toml";

struct Containerd {
  std::string program;  // as the system has it: "/usr/bin/containerd"
  std::string version;  // "1.7.24"; empty where the program does not say
};

// NOT_FOUND: none below `root`.
Result<Containerd> FindContainerd(const std::string& root);

struct HandlerChange {
  std::vector<std::string> lines;  // for people
  bool restart = false;            // containerd must be restarted to see it
};

// What AddHandler would write, into the manifest before it is done. ALREADY_EXISTS: a file of somebody else's in the way.
Result<> PlanHandler(const std::string& root, const std::string& config_path,
                     const Containerd& containerd, Manifest& manifest);
Result<HandlerChange> AddHandler(const std::string& root, const std::string& config_path,
                                 const Containerd& containerd, Manifest& manifest);

}  // namespace wyvern::cli
