#include "task/stats.h"

#include <array>
#include <string_view>
#include <utility>

#include "proto/containerd_cgroups2.pb.h"

namespace wyvern::shim {

namespace {

namespace cg = io::containerd::cgroups::v2;

using MemorySetter = void (cg::MemoryStat::*)(uint64_t);
using EventSetter = void (cg::MemoryEvents::*)(uint64_t);

// Keys of memory.stat (kernel Documentation/admin-guide/cgroup-v2.rst).
constexpr std::array<std::pair<std::string_view, MemorySetter>, 31> kMemoryStat{{
    {"anon", &cg::MemoryStat::set_anon},
    {"file", &cg::MemoryStat::set_file},
    {"kernel_stack", &cg::MemoryStat::set_kernel_stack},
    {"slab", &cg::MemoryStat::set_slab},
    {"sock", &cg::MemoryStat::set_sock},
    {"shmem", &cg::MemoryStat::set_shmem},
    {"file_mapped", &cg::MemoryStat::set_file_mapped},
    {"file_dirty", &cg::MemoryStat::set_file_dirty},
    {"file_writeback", &cg::MemoryStat::set_file_writeback},
    {"anon_thp", &cg::MemoryStat::set_anon_thp},
    {"inactive_anon", &cg::MemoryStat::set_inactive_anon},
    {"active_anon", &cg::MemoryStat::set_active_anon},
    {"inactive_file", &cg::MemoryStat::set_inactive_file},
    {"active_file", &cg::MemoryStat::set_active_file},
    {"unevictable", &cg::MemoryStat::set_unevictable},
    {"slab_reclaimable", &cg::MemoryStat::set_slab_reclaimable},
    {"slab_unreclaimable", &cg::MemoryStat::set_slab_unreclaimable},
    {"pgfault", &cg::MemoryStat::set_pgfault},
    {"pgmajfault", &cg::MemoryStat::set_pgmajfault},
    {"workingset_refault", &cg::MemoryStat::set_workingset_refault},
    {"workingset_activate", &cg::MemoryStat::set_workingset_activate},
    {"workingset_nodereclaim", &cg::MemoryStat::set_workingset_nodereclaim},
    {"pgrefill", &cg::MemoryStat::set_pgrefill},
    {"pgscan", &cg::MemoryStat::set_pgscan},
    {"pgsteal", &cg::MemoryStat::set_pgsteal},
    {"pgactivate", &cg::MemoryStat::set_pgactivate},
    {"pgdeactivate", &cg::MemoryStat::set_pgdeactivate},
    {"pglazyfree", &cg::MemoryStat::set_pglazyfree},
    {"pglazyfreed", &cg::MemoryStat::set_pglazyfreed},
    {"thp_fault_alloc", &cg::MemoryStat::set_thp_fault_alloc},
    {"thp_collapse_alloc", &cg::MemoryStat::set_thp_collapse_alloc},
}};

// Keys of memory.events.
constexpr std::array<std::pair<std::string_view, EventSetter>, 5> kMemoryEvents{{
    {"low", &cg::MemoryEvents::set_low},
    {"high", &cg::MemoryEvents::set_high},
    {"max", &cg::MemoryEvents::set_max},
    {"oom", &cg::MemoryEvents::set_oom},
    {"oom_kill", &cg::MemoryEvents::set_oom_kill},
}};

template <typename Table, typename Message>
void Fill(const Table& table, const std::map<std::string, uint64_t>& values, Message& message) {
  for (const auto& [key, setter] : table) {
    if (const auto found = values.find(std::string(key)); found != values.end()) {
      (message.*setter)(found->second);
    }
  }
}

}  // namespace

pb::Any EncodeStats(const runtime::ContainerStats& stats) {
  cg::Metrics metrics;
  metrics.mutable_pids()->set_current(stats.pids_current);
  metrics.mutable_pids()->set_limit(stats.pids_limit);
  auto& cpu = *metrics.mutable_cpu();
  cpu.set_usage_usec(stats.cpu_usage_usec);
  cpu.set_user_usec(stats.cpu_user_usec);
  cpu.set_system_usec(stats.cpu_system_usec);
  cpu.set_nr_periods(stats.nr_periods);
  cpu.set_nr_throttled(stats.nr_throttled);
  cpu.set_throttled_usec(stats.throttled_usec);
  auto& memory = *metrics.mutable_memory();
  Fill(kMemoryStat, stats.memory_stat, memory);
  memory.set_usage(stats.memory_current);
  memory.set_usage_limit(stats.memory_limit);
  memory.set_swap_usage(stats.swap_current);
  memory.set_swap_limit(stats.swap_limit);
  Fill(kMemoryEvents, stats.memory_events, *metrics.mutable_memory_events());
  for (const runtime::DeviceIo& device : stats.io) {
    auto& entry = *metrics.mutable_io()->add_usage();
    entry.set_major(device.major);
    entry.set_minor(device.minor);
    entry.set_rbytes(device.rbytes);
    entry.set_wbytes(device.wbytes);
    entry.set_rios(device.rios);
    entry.set_wios(device.wios);
  }
  pb::Any any;
  any.set_type_url("io.containerd.cgroups.v2.Metrics");
  any.set_value(metrics.SerializeAsString());
  return any;
}

}  // namespace wyvern::shim
