// cli/check.h — what `wyvern check` says of a host: a function of what was found there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "api/host_probe.h"
#include "config/config.h"

namespace wyvern::cli {

enum class Verdict : uint8_t { kOk, kWarning, kMissing };

struct Finding {
  std::string name;
  Verdict verdict = Verdict::kOk;
  std::string text;
  std::string remedy;  // empty only where all is well
};

struct HostFacts {
  struct File {
    std::string path;
    bool usable = false;  // can be read; a program: can be run
  };

  api::KvmAnswer kvm;
  std::string kernel_release;  // of uname(2)
  std::string cgroup_root;
  bool cgroup_v2 = false;
  std::string shmem_enabled;  // the file's text: "always within_size [advise] …"
  bool io_uring = false;
  uint64_t memory_bytes = 0;
  File kernel, image, vmm, fs, anchor;
};

// One for each of kvm, kernel, cgroups, shmem-thp, io_uring, memory, guest, image, vmm, fs, anchor.
std::vector<Finding> FindingsOf(const HostFacts& facts);

// Those of this host; `kvm` is what api::ProbeKvm() says.
std::vector<Finding> CheckHost(const runtime::Config& config, api::KvmAnswer kvm);

// The exit code: 1 where something is missing; warnings are no failure.
int StatusOf(const std::vector<Finding>& findings);

// For people, or as a JSON array of {name, verdict, text, remedy}.
std::string Render(const std::vector<Finding>& findings, bool json);

}  // namespace wyvern::cli
