// api/host_probe.h — can this host's KVM run guests? What `wyvern check` and the runtime ask before they start a VMM.
// Blocking: at most about a second (an interpreting KVM is given a deadline).
#pragma once

#include <cstdint>
#include <string>

namespace wyvern::api {

enum class KvmState : uint8_t {
  kWorks = 1,
  kInterprets = 2,  // KVM answers, but runs guests instruction by instruction: far too slow
  kUnusable = 3,    // the device is there, but cannot be opened or used
  kAbsent = 4,      // no device
};

struct KvmAnswer {
  KvmState state = KvmState::kAbsent;
  std::string text;    // one sentence for people
  std::string remedy;  // what to do about it; empty when it works

  // Both in one line.
  std::string Line() const { return remedy.empty() ? text : text + "; " + remedy; }
};

KvmAnswer ProbeKvm(const std::string& path = "/dev/kvm");

}  // namespace wyvern::api
