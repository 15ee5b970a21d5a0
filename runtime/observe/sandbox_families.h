// observe/sandbox_families.h — the metrics of one sandbox, as Prometheus has them.
// Names:   wyvern_host_… is the host kernel's word, wyvern_guest_… and wyvern_container_… the guest's (label source="guest"), the rest the VMM's.
//          runtime/observe/README.md lists them all.
// Bounds:  of what a VMM or a guest may say: kMaxDevices and so on; the rest is left out.
#pragma once

#include <string>

#include "observe/event_log.h"
#include "observe/family.h"
#include "observe/observation.h"

namespace wyvern::observe {

inline constexpr size_t kMaxVcpus = 64;
inline constexpr size_t kMaxDevices = 128;
inline constexpr size_t kMaxCounters = 64;  // of a device, of the reasons of a vCPU's exits
inline constexpr size_t kMaxMachineCounters = 256;
inline constexpr size_t kMaxContainers = 512;

// Labels of every sample: namespace and sandbox.
struct SandboxName {
  std::string ns;
  std::string id;
};

FamilySet FamiliesOf(const SandboxName& sandbox, const Observation& observation,
                     const std::map<EventKind, uint64_t>& events);

// Memory that is neither free nor caches: what `free` calls used. 0 where the guest's numbers contradict each other.
uint64_t UsedMemory(const GuestUsage& guest);

}  // namespace wyvern::observe
