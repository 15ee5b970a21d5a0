#include "observe/sandbox_families.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

namespace wyvern::observe {

namespace {

using Kind = FamilySet::Kind;

constexpr MetricType kCounter = MetricType::kCounter;
constexpr MetricType kGauge = MetricType::kGauge;
constexpr double kMicro = 1e-6;

// What is the same for all samples, and where they go.
class Writer {
 public:
  Writer(const SandboxName& sandbox, FamilySet& out) : out_(out) {
    all_ = {{"namespace", sandbox.ns}, {"sandbox", sandbox.id}};
  }

  void Add(const Kind& kind, Labels labels, double value, std::string_view suffix = {}) {
    labels.insert(labels.begin(), all_.begin(), all_.end());
    out_.Add(kind, std::move(labels), value, suffix);
  }

  void Add(const Kind& kind, Labels labels, uint64_t value) {
    Add(kind, std::move(labels), static_cast<double>(value));
  }

  void Add(const Kind& kind, Labels labels, std::optional<uint64_t> value) {
    if (value.has_value()) {
      Add(kind, std::move(labels), *value);
    }
  }

 private:
  FamilySet& out_;
  Labels all_;
};

double Seconds(uint64_t micros) {
  return static_cast<double>(micros) * kMicro;
}

Labels FromGuest(Labels labels = {}) {
  labels.emplace_back("source", "guest");
  return labels;
}

void AddHost(Writer& out, const Observation& seen) {
  for (const ProcessUsage& process : seen.processes) {
    Labels labels = {{"process", process.role}, {"pid", std::to_string(process.pid)}};
    if (!process.container.empty()) {
      labels.emplace_back("container", process.container);
    }
    out.Add({"wyvern_host_process_pss_bytes", kGauge,
             "Memory of a host process; what it shares with others counts in parts"},
            labels, process.pss);
    out.Add({"wyvern_host_process_resident_bytes", kGauge,
             "Memory of a host process; what it shares with others counts whole"},
            labels, process.rss);
    out.Add({"wyvern_host_process_swap_bytes", kGauge, "Memory of a host process that is in swap"},
            labels, process.swap_pss);
    out.Add({"wyvern_host_process_cpu_seconds_total", kCounter, "Processor time of a host process"},
            labels, Seconds(process.cpu_usec));
    out.Add({"wyvern_host_process_read_bytes_total", kCounter,
             "Bytes that a host process read, from caches too; of process=fs: of shared files"},
            labels, process.read_bytes);
    out.Add({"wyvern_host_process_written_bytes_total", kCounter,
             "Bytes that a host process wrote; of process=fs: to shared files"},
            labels, process.written_bytes);
  }
  out.Add({"wyvern_host_cgroup_memory_bytes", kGauge,
           "Memory of the sandbox's host cgroup: guest memory, VMM and file server"},
          {}, seen.cgroup.memory_current);
  out.Add({"wyvern_host_cgroup_memory_limit_bytes", kGauge,
           "Limit of the sandbox's host cgroup: guest memory and overhead"},
          {}, seen.cgroup.memory_max);
  out.Add({"wyvern_host_cgroup_oom_kills_total", kCounter,
           "Processes of the sandbox that the host killed for want of memory"},
          {}, seen.cgroup.oom_kills);
  out.Add({"wyvern_sandbox_containers", kGauge, "Containers in the sandbox"}, {},
          seen.container_count);
}

// A counter of a kind of device that has a family of its own. Others are in wyvern_device_counts.
struct Known {
  std::string_view kind, counter;
  Kind family;
  std::string_view label, value;  // one more label; empty: none
};

constexpr Kind kBlockRead = {"wyvern_block_read_bytes_total", kCounter,
                             "Bytes that the guest read from a disk"};
constexpr Kind kBlockWritten = {"wyvern_block_written_bytes_total", kCounter,
                                "Bytes that the guest wrote to a disk"};
constexpr Kind kBlockOperations = {"wyvern_block_operations_total", kCounter,
                                   "Requests that the guest made of a disk"};
constexpr Kind kBlockErrors = {"wyvern_block_errors_total", kCounter,
                               "Requests of a disk that the host's file or device failed"};
constexpr Kind kReceivedBytes = {"wyvern_network_receive_bytes_total", kCounter,
                                 "Bytes to the guest's network interface"};
constexpr Kind kSentBytes = {"wyvern_network_transmit_bytes_total", kCounter,
                             "Bytes from the guest's network interface"};
constexpr Kind kReceived = {"wyvern_network_receive_packets_total", kCounter,
                            "Packets to the guest's network interface"};
constexpr Kind kSent = {"wyvern_network_transmit_packets_total", kCounter,
                        "Packets from the guest's network interface"};
constexpr Kind kToGuest = {"wyvern_channel_to_guest_bytes_total", kCounter,
                           "Bytes to the guest by a vsock or console device"};
constexpr Kind kFromGuest = {"wyvern_channel_from_guest_bytes_total", kCounter,
                             "Bytes from the guest by a vsock or console device"};
constexpr Kind kBalloon = {"wyvern_balloon_bytes", kGauge,
                           "Memory that the guest has put into the balloon"};
constexpr Kind kBalloonTarget = {"wyvern_balloon_target_bytes", kGauge,
                                 "Memory that the guest is asked to put into the balloon"};
constexpr Kind kPlugged = {"wyvern_memory_hotplugged_bytes", kGauge,
                           "Memory that the guest has plugged, over what it booted with"};
constexpr Kind kPlugRequested = {"wyvern_memory_hotplug_requested_bytes", kGauge,
                                 "Memory that the guest is asked to have plugged"};

constexpr std::array<Known, 20> kKnown = {{
    {"blk", "bytes_read", kBlockRead, {}, {}},
    {"blk", "bytes_written", kBlockWritten, {}, {}},
    {"blk", "reads", kBlockOperations, "operation", "read"},
    {"blk", "writes", kBlockOperations, "operation", "write"},
    {"blk", "flushes", kBlockOperations, "operation", "flush"},
    {"blk", "discards", kBlockOperations, "operation", "discard"},
    {"blk", "write_zeroes", kBlockOperations, "operation", "write_zeroes"},
    {"blk", "io_errors", kBlockErrors, {}, {}},
    {"net", "rx_bytes", kReceivedBytes, {}, {}},
    {"net", "tx_bytes", kSentBytes, {}, {}},
    {"net", "rx_packets", kReceived, {}, {}},
    {"net", "tx_packets", kSent, {}, {}},
    {"vsock", "bytes_to_guest", kToGuest, {}, {}},
    {"vsock", "bytes_from_guest", kFromGuest, {}, {}},
    {"console", "bytes_to_guest", kToGuest, {}, {}},
    {"console", "bytes_from_guest", kFromGuest, {}, {}},
    {"balloon", "actual_bytes", kBalloon, {}, {}},
    {"balloon", "target_bytes", kBalloonTarget, {}, {}},
    {"mem", "plugged_bytes", kPlugged, {}, {}},
    {"mem", "requested_bytes", kPlugRequested, {}, {}},
}};

// Calls `each` for the first `limit`.
template <typename Map, typename Each>
void FirstOf(const Map& map, size_t limit, const Each& each) {
  for (auto it = map.begin(); it != map.end() && limit > 0; ++it, --limit) {
    each(*it);
  }
}

void AddDevice(Writer& out, const DeviceUsage& device) {
  FirstOf(device.counters, kMaxCounters, [&](const auto& counter) {
    Labels labels = {{"device", device.id}};
    const auto known = std::ranges::find_if(kKnown, [&](const Known& k) {
      return k.kind == device.kind && k.counter == counter.first;
    });
    if (known == kKnown.end()) {
      labels.emplace_back("kind", device.kind);
      labels.emplace_back("counter", counter.first);
      out.Add({"wyvern_device_counts", MetricType::kUntyped,
               "What else a device counts, by its own names"},
              std::move(labels), counter.second);
      return;
    }
    if (!known->label.empty()) {
      labels.emplace_back(known->label, known->value);
    }
    out.Add(known->family, std::move(labels), counter.second);
  });
}

// "pci_rescan.micros", "pci_rescan.failures.unavailable": what follows "upcall."
void AddUpcall(Writer& out, std::string_view name, uint64_t value) {
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos) {
    out.Add({"wyvern_upcall_streams_total", kCounter,
             "Streams opened from the VMM to the guest's agent"},
            {}, value);
    return;
  }
  const Labels labels = {{"call", std::string(name.substr(0, dot))}};
  const std::string_view what = name.substr(dot + 1);
  constexpr Kind kDuration = {"wyvern_upcall_duration_seconds", MetricType::kSummary,
                              "Calls of the VMM to the guest's agent, from asking to the answer"};
  constexpr std::string_view kFailures = "failures.";
  if (what == "calls") {
    out.Add(kDuration, labels, static_cast<double>(value), "_count");
  } else if (what == "micros") {
    out.Add(kDuration, labels, Seconds(value), "_sum");
  } else if (what == "max_micros") {
    out.Add({"wyvern_upcall_duration_max_seconds", kGauge,
             "The longest call of the VMM to the guest's agent"},
            labels, Seconds(value));
  } else if (what.starts_with(kFailures)) {
    Labels failed = labels;
    failed.emplace_back("code", what.substr(kFailures.size()));
    out.Add({"wyvern_upcall_failures_total", kCounter,
             "Calls of the VMM to the guest's agent that failed"},
            std::move(failed), value);
  }
}

void AddMachineCounter(Writer& out, std::string_view name, uint64_t value) {
  constexpr std::string_view kUpcall = "upcall.";
  constexpr std::string_view kHotplug = "hotplug.";
  if (name.starts_with(kUpcall)) {
    AddUpcall(out, name.substr(kUpcall.size()), value);
  } else if (name == "hotplug.unsettled_addresses") {
    out.Add({"wyvern_hotplug_unsettled_addresses", kGauge,
             "PCI addresses of which the guest was not told that they are free"},
            {}, value);
  } else if (name.starts_with(kHotplug)) {
    out.Add({"wyvern_hotplug_operations_total", kCounter,
             "Devices that were attached or detached, by what became of it"},
            {{"outcome", std::string(name.substr(kHotplug.size()))}}, value);
  } else if (name == "vcpus.running") {
    out.Add({"wyvern_vcpus_running", kGauge, "vCPUs that are on line"}, {}, value);
  } else if (name == "memory.boot_bytes") {
    out.Add({"wyvern_memory_boot_bytes", kGauge, "Memory that the guest booted with"}, {}, value);
  } else if (name.starts_with("exits.") || name.find('.') == std::string_view::npos) {
    return;  // those of the vCPUs together say it
  } else {
    out.Add({"wyvern_machine_counts", MetricType::kUntyped, "What else the VMM counts"},
            {{"counter", std::string(name)}}, value);
  }
}

void AddVmm(Writer& out, const VmmUsage& vmm) {
  FirstOf(vmm.vcpus, kMaxVcpus, [&](const VcpuUsage& vcpu) {
    FirstOf(vcpu.exits, kMaxCounters, [&](const auto& exits) {
      out.Add({"wyvern_vcpu_exits_total", kCounter, "Exits of a vCPU to the VMM, by reason"},
              {{"vcpu", std::to_string(vcpu.id)}, {"reason", exits.first}}, exits.second);
    });
  });
  FirstOf(vmm.devices, kMaxDevices, [&](const DeviceUsage& device) { AddDevice(out, device); });
  FirstOf(vmm.counters, kMaxMachineCounters,
          [&](const auto& counter) { AddMachineCounter(out, counter.first, counter.second); });
}

void AddGuestMemory(Writer& out, const GuestUsage& guest) {
  const auto gauge = [&](std::string_view name, std::string_view help, uint64_t value) {
    out.Add({name, kGauge, help}, FromGuest(), value);
  };
  gauge("wyvern_guest_memory_total_bytes", "Memory of the guest", guest.memory_total);
  gauge("wyvern_guest_memory_used_bytes", "Memory of the guest that is neither free nor caches",
        UsedMemory(guest));
  gauge("wyvern_guest_memory_free_bytes", "Memory of the guest that nobody uses",
        guest.memory_free);
  gauge("wyvern_guest_memory_available_bytes",
        "Memory that the guest could give to programs without swapping", guest.memory_available);
  gauge("wyvern_guest_memory_cached_bytes", "Page cache of the guest, tmpfs included",
        guest.cached);
  gauge("wyvern_guest_memory_buffers_bytes", "Cache of the guest's disks", guest.buffers);
  gauge("wyvern_guest_memory_shmem_bytes", "tmpfs and shared memory of the guest", guest.shmem);
  gauge("wyvern_guest_memory_slab_reclaimable_bytes",
        "Caches of the guest's kernel that it can drop", guest.slab_reclaimable);
  gauge("wyvern_guest_memory_dirty_bytes", "Page cache of the guest that is to be written",
        guest.dirty);
  gauge("wyvern_guest_swap_total_bytes", "Swap of the guest", guest.swap_total);
  gauge("wyvern_guest_swap_free_bytes", "Swap of the guest that is free", guest.swap_free);
}

void AddGuest(Writer& out, const GuestUsage& guest) {
  AddGuestMemory(out, guest);
  out.Add({"wyvern_guest_oom_kills_total", kCounter,
           "Processes in the guest that its kernel killed for want of memory"},
          FromGuest(), guest.oom_kills);
  out.Add({"wyvern_guest_refused_calls_total", kCounter,
           "What was asked of the guest against guest.allow"},
          FromGuest(), guest.refused_calls);
  out.Add({"wyvern_guest_cpus_online", kGauge, "Processors that the guest uses"}, FromGuest(),
          uint64_t{guest.cpus_online});
  const std::array<std::pair<const char*, uint64_t>, 4> modes = {{{"user", guest.cpu_user_usec},
                                                                  {"system", guest.cpu_system_usec},
                                                                  {"idle", guest.cpu_idle_usec},
                                                                  {"steal", guest.cpu_steal_usec}}};
  for (const auto& [mode, micros] : modes) {
    out.Add({"wyvern_guest_cpu_seconds_total", kCounter,
             "Time of the guest's processors, by what it went to"},
            FromGuest({{"mode", mode}}), Seconds(micros));
  }

  struct Stall {
    const char* resource;
    const char* share;
    uint64_t micros;
  };

  const std::array<Stall, 5> stalls = {{{"cpu", "some", guest.cpu_some_usec},
                                        {"memory", "some", guest.memory_some_usec},
                                        {"memory", "full", guest.memory_full_usec},
                                        {"io", "some", guest.io_some_usec},
                                        {"io", "full", guest.io_full_usec}}};
  for (const Stall& stall : stalls) {
    out.Add({"wyvern_guest_pressure_stalled_seconds_total", kCounter,
             "Time in which some, or all, of the guest's tasks waited for a resource"},
            FromGuest({{"resource", stall.resource}, {"share", stall.share}}),
            Seconds(stall.micros));
  }
}

void AddContainer(Writer& out, const ContainerUsage& container) {
  const Labels labels = FromGuest({{"container", container.id}});
  out.Add({"wyvern_container_cpu_seconds_total", kCounter, "Processor time of a container"}, labels,
          Seconds(container.cpu_usec));
  out.Add({"wyvern_container_memory_bytes", kGauge, "Memory of a container, its caches included"},
          labels, container.memory_current);
  out.Add({"wyvern_container_memory_limit_bytes", kGauge, "Memory limit of a container"}, labels,
          container.memory_limit);
  out.Add({"wyvern_container_processes", kGauge, "Processes and threads of a container"}, labels,
          container.pids);
  out.Add({"wyvern_container_oom_kills_total", kCounter,
           "Processes of a container that were killed for want of memory"},
          labels, container.oom_kills);
}

}  // namespace

uint64_t UsedMemory(const GuestUsage& guest) {
  uint64_t left = guest.memory_total;
  for (const uint64_t part :
       {guest.memory_free, guest.buffers, guest.cached, guest.slab_reclaimable}) {
    left = part > left ? 0 : left - part;
  }
  return left;
}

FamilySet FamiliesOf(const SandboxName& sandbox, const Observation& observation,
                     const std::map<EventKind, uint64_t>& events) {
  FamilySet set;
  Writer out(sandbox, set);
  AddHost(out, observation);
  const auto answered = [](bool yes) { return yes ? uint64_t{1} : uint64_t{0}; };
  out.Add({"wyvern_vmm_up", kGauge, "1: the VMM answered in time"}, {},
          answered(observation.vmm.has_value()));
  out.Add({"wyvern_guest_up", kGauge, "1: the agent in the guest answered in time"}, {},
          answered(observation.guest.has_value()));
  if (observation.vmm) {
    AddVmm(out, *observation.vmm);
  }
  if (observation.guest) {
    AddGuest(out, *observation.guest);
  }
  FirstOf(observation.containers, kMaxContainers,
          [&](const ContainerUsage& container) { AddContainer(out, container); });
  for (const auto& [kind, count] : events) {
    out.Add({"wyvern_events_total", kCounter, "Events of the sandbox; see wyvern events"},
            {{"event", EventName(kind)}}, count);
  }
  return set;
}

}  // namespace wyvern::observe
