// observe/observation.h — what is known of one sandbox at one moment: plain values, from four sources.
// Shape:   `host` is the kernel's word; `vmm` the VMM's, which may be taken over by its guest; `guest` and `containers` the guest's, which may be lies.
//          What did not answer in time is not there.
// Units:   bytes, microseconds; counters begin with the sandbox, or with the guest's boot.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace wyvern::observe {

using Counters = std::map<std::string, uint64_t>;

// A process of the sandbox on the host.
struct ProcessUsage {
  std::string role;       // "owner", "vmm", "fs", "anchor", "keeper"
  std::string container;  // an anchor's
  pid_t pid = 0;
  uint64_t pss = 0, rss = 0, swap_pss = 0;  // of which what is shared counts by halves, thirds, …
  uint64_t cpu_usec = 0;
  std::optional<uint64_t> read_bytes{}, written_bytes{};  // by read(2) and write(2) and their kin
};

// The sandbox's host cgroup: VMM and file server.
struct CgroupUsage {
  std::optional<uint64_t> memory_current{}, memory_max{};  // no limit, or no controller: none
  uint64_t oom_kills = 0;
};

struct DeviceUsage {
  std::string id, kind;
  Counters counters;
};

struct VcpuUsage {
  uint32_t id = 0;
  Counters exits;  // by reason
};

struct VmmUsage {
  Counters counters;  // of the machine as a whole: vmm.v1.MetricsResponse
  std::vector<DeviceUsage> devices;
  std::vector<VcpuUsage> vcpus;
};

struct GuestUsage {
  uint64_t memory_total = 0, memory_free = 0, memory_available = 0;
  uint64_t buffers = 0, cached = 0, shmem = 0, slab_reclaimable = 0, dirty = 0;
  uint64_t swap_total = 0, swap_free = 0;
  uint64_t oom_kills = 0;
  uint64_t refused_calls = 0;  // by guest.allow
  uint64_t cpu_user_usec = 0, cpu_system_usec = 0, cpu_idle_usec = 0, cpu_steal_usec = 0;
  uint32_t cpus_online = 0;
  uint64_t cpu_some_usec = 0, memory_some_usec = 0, memory_full_usec = 0;
  uint64_t io_some_usec = 0, io_full_usec = 0;
};

struct ContainerUsage {
  std::string id;
  uint64_t cpu_usec = 0;
  uint64_t memory_current = 0;
  std::optional<uint64_t> memory_limit{};
  uint64_t pids = 0;
  uint64_t oom_kills = 0;
};

struct Observation {
  std::vector<ProcessUsage> processes;
  CgroupUsage cgroup;
  std::optional<VmmUsage> vmm;
  std::optional<GuestUsage> guest;
  std::vector<ContainerUsage> containers;
  uint64_t container_count = 0;
};

}  // namespace wyvern::observe
