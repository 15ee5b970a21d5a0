// cli/env.h — what `wyvern env` says: versions, paths, host, configuration in effect, guest, what check found. For reports of faults.
// Format:  JSON, "format": 1. Fields are added, never changed; what is not known is null.
//            wyvern         version, program, installed (version that `wyvern install` put here)
//            host           os, kernel, machine, cpus, memory_bytes, kvm {state: works, interprets, unusable, absent; text}
//            containerd     program, version; null where there is none
//            programs       vmm, fs, anchor, shim: {path, present}
//            guest          name, kernel {path, bytes, release}, image {path, bytes}, initrd {path, bytes}
//            configuration  every key of wyvern.yaml: {value, origin}
//            check          as `wyvern check --json` has it
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/check.h"
#include "config/config.h"
#include "install/containerd.h"

namespace wyvern::cli {

struct HostFile {
  std::string path;  // empty: none is configured
  std::optional<uint64_t> bytes;
  std::string release;  // of a kernel; empty where it was not found
};

struct Environment {
  std::string version, program, installed;
  std::string os, kernel, machine;
  uint32_t cpus = 0;
  uint64_t memory_bytes = 0;
  api::KvmAnswer kvm;
  std::optional<Containerd> containerd;
  std::string shim;  // where it was found; empty: nowhere
  std::string guest_name;
  HostFile guest_kernel, guest_image, guest_initrd;
  runtime::Config config;
  std::vector<Finding> findings;
};

// Of this host; reads the guest's kernel and starts containerd for its version.
Environment LookAround(const runtime::Config& config);

// For people, one fact a line, or as JSON.
std::string EnvironmentText(const Environment& environment, bool json);

}  // namespace wyvern::cli
