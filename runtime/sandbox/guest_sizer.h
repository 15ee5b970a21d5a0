// sandbox/guest_sizer.h — the vCPUs and the memory of a machine that runs, changed together with what the host grants it.
// Shape:   the host's limit is raised before memory comes, and lowered after it has gone.
// Errors:  of the machine and of the host's limit. A guest that does not follow is UNAVAILABLE, and why.
// Threads: one at a time (the caller's lock); calls wait for the guest. The machine's end releases them.
// Trust:   sizes are the VMM's word, which the machine has checked against what it was made with.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "base/error.h"
#include "hypervisor/machine.h"
#include "sandbox/sizing.h"

namespace wyvern::runtime {

class GuestSizer {
 public:
  struct Options {
    Machine* machine = nullptr;  // outlives this
    SizePlan plan;               // what it was made with
    // Lets the sandbox's processes use what a guest of so much memory needs.
    std::function<Result<>(uint64_t memory)> limit_host;
    // How much of `memory` the guest cannot do without now, by its own word: with less its kernel kills, or ends.
    std::function<Result<uint64_t>(uint64_t memory)> in_use;
    std::chrono::milliseconds patience{};  // that the guest has for vCPUs, and again for memory
  };

  explicit GuestSizer(Options options);

  const GuestSize& now() const { return now_; }

  const SizePlan& plan() const { return options_.plan; }

  // All or nothing: after an error it is as before, if the guest goes back. FAILED_PRECONDITION: less memory than the guest uses. Memory may be more, by less than kHotplugStep: the machine has whole
  // blocks. Precondition: 1 vCPU and the plan's boot memory at least, at most the plan's most or
  // what there is.
  Result<> Set(const GuestSize& size);

  struct Shrunk {
    bool moved = false;  // something went
    std::string kept;    // why not all that was asked to go; empty: it did
  };

  // What is larger than `size` goes, as far as the guest lets it within `patience` and does not use it; nothing grows. Precondition: as Set.
  Shrunk Shrink(const GuestSize& size, std::chrono::milliseconds patience);

 private:
  void ShrinkMemory(uint64_t bytes, std::chrono::milliseconds patience, std::string& kept);
  Result<> SetVcpus(uint32_t vcpus, std::chrono::milliseconds patience);
  Result<> SetMemory(uint64_t bytes, std::chrono::milliseconds patience);
  void LimitHost(uint64_t memory);
  // After an error: what is.
  void Refresh();

  const Options options_;
  GuestSize now_;
};

}  // namespace wyvern::runtime
