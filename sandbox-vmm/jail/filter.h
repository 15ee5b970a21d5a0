// jail/filter.h — seccomp filters per kind of thread.
// Shape:   an allow list; what is on no list raises SIGSYS (reported by jail/violation.h); what only an attacker would call
//          kills the process at once; clone3 and io_uring_setup answer an errno so that libraries fall back.
// Threads: a filter holds for the calling thread and for those it starts. Filters add up: a call must pass all of them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace wyvern::jail {

enum class ThreadKind : uint8_t {
  kControl,   // main, gRPC's own threads, and the base of every other thread
  kVcpu,      // KVM_RUN and register access; virtqueue notifications and transport registers
  kDevice,    // a device's worker: rings, sockets, files it holds
  kUpcall,    // that which reads what the guest's agent answers
  kNet,       // that of a network device: taps' offloads, queues and carrier beside it
  kVhostNet,  // that of a network device whose rings the kernel has
  kMemory,    // that of a virtio-mem device: memslots come and go
  // With a device whose back-end shows files to the guest (virtio-fs' DAX window):
  kWindow,      // that device's: it looks at what it is given before it maps it
  kWindowVcpu,  // kVcpu, and the window's memslot moves with its BAR
};

// Condition on one argument: (argument & mask) == value.
struct ArgumentRule {
  unsigned index = 0;
  uint64_t mask = ~0ULL;
  uint64_t value = 0;
};

// One allowed form of a call: all conditions hold. No condition: always allowed.
struct CallRule {
  int number = 0;
  std::vector<ArgumentRule> arguments;
};

// The allow list of a kind; for the filter, and for allowed_calls_test.cc, which pins it.
std::vector<CallRule> AllowedCalls(ThreadKind kind);
// Calls that end the process without a report.
std::span<const int> LethalCalls();

// Installs the filter for the calling thread. Needs no_new_privs. `kind` is any; kControl first.
Result<> InstallFilter(ThreadKind kind);

}  // namespace wyvern::jail
