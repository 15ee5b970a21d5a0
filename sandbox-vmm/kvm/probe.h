// kvm/probe.h — does KVM run guests on this host, or does it interpret them, or is it not there?
// Shape:   the same counting loop once on the host's CPU and once in a tiny guest; what decides is the ratio, so that a slow but real
//          virtualization (a machine inside an emulator) counts as working. Takes a few milliseconds where KVM works.
// Errors:  none: every failure is a verdict with its reason and what to do about it.
// Threads: any; blocks at most `deadline`. Leaves signal masks and handlers as they were.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "base/fd.h"

namespace wyvern::kvm {

enum class KvmVerdict : uint8_t {
  kWorks,       // guests run on the CPU
  kInterprets,  // KVM answers, but executes guests instruction by instruction: unusable
  kUnusable,    // the device is there, but cannot be opened or used
  kAbsent,      // no device
};

const char* KvmVerdictName(KvmVerdict verdict);

struct KvmProbe {
  KvmVerdict verdict = KvmVerdict::kAbsent;
  std::string detail;                  // one sentence for people
  std::string remedy;                  // what to do about it; empty when it works
  std::chrono::nanoseconds native{0};  // best times of the loop; 0: not measured
  std::chrono::nanoseconds guest{0};
};

constexpr std::chrono::milliseconds kProbeDeadline{2000};
// Real virtualization: 1 to 3, in a nested emulated machine too. Interpreted: hundreds.
constexpr int64_t kInterpretedRatio = 25;

// Opens `path`. Takes up to twice the deadline: only two slow answers are believed.
KvmProbe ProbeKvm(const std::string& path = "/dev/kvm",
                  std::chrono::milliseconds deadline = kProbeDeadline);
// The same with an open /dev/kvm.
KvmProbe ProbeKvm(FdRef device, std::chrono::milliseconds deadline = kProbeDeadline);

// The rule alone, for tests: what the two best times mean. `finished` false: the guest did not come back in time.
KvmVerdict JudgeTimes(std::chrono::nanoseconds native, std::chrono::nanoseconds guest,
                      bool finished);

}  // namespace wyvern::kvm
