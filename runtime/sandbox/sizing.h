// sandbox/sizing.h — how large a virtual machine its containers ask for. Numbers in, numbers out.
// Shape:   a container with a limit of CPU time or memory asks for that much; those without share what the configuration gives (sandbox.vcpus,
//          sandbox.memory). A quota is CPU time; without one a set of CPUs is as much as it has CPUs; with both the smaller counts.
// Trust:   limits are those of whoever asks for a container, and passed CheckLimits: sums stay at the largest number instead of wrapping, and
//          what is asked for is cut to what the sandbox may be.
// Threads: any.
#pragma once

#include <cstdint>
#include <vector>

#include "cgroup/limits.h"
#include "config/config.h"

namespace wyvern::runtime {

struct GuestSize {
  uint32_t vcpus = 0;
  uint64_t memory = 0;  // bytes, a multiple of kMemoryGranule

  bool operator==(const GuestSize&) const = default;
};

inline constexpr uint64_t kMemoryGranule = 2ULL << 20U;
inline constexpr uint32_t kMaxBootVcpus = 8;  // vmm.proto, CreateRequest
inline constexpr uint32_t kMaxVcpus = 32;     // the same

// Whole granules, at least `bytes`.
uint64_t RoundUpMemory(uint64_t bytes);

struct Need {
  uint64_t cpu_time = 0;  // µs in kDefaultCpuPeriod: of the containers that are limited
  uint64_t memory = 0;    // bytes: likewise
  bool cpu_unlimited = false, memory_unlimited = false;  // one of them at least is not
};

// `containers`: each passed CheckLimits.
Need NeedOf(const std::vector<Limits>& containers);

// What limited containers need alone: nothing smaller will do for them. 0: none is limited.
GuestSize LeastFor(const Need& need);
// With `base` for those that are not limited, and `base` at least.
GuestSize SizeFor(const Need& need, const GuestSize& base);

struct HostSize {
  uint32_t processors = 0;
  uint64_t memory = 0;  // bytes
};

HostSize SizeOfHost();

struct SizePlan {
  GuestSize boot;  // what the machine starts with
  GuestSize most;  // what it can grow to: boot at least
};

// `need`: of what is known when the sandbox starts. Never more than the host has, unless the configuration says so.
SizePlan PlanSize(const Need& need, const Config::Sandbox& config, const HostSize& host);

// No part larger than that of `most`.
GuestSize CutTo(const GuestSize& size, const GuestSize& most);

}  // namespace wyvern::runtime
