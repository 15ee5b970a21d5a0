// What a sandbox uses at this moment, by everybody's word; and what has happened to it.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/fd.h"
#include "base/log.h"
#include "observe/host_process.h"
#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Who shows figures has no patience for a VMM or a guest that hangs: each of them a second, and the guest's containers one more together.
constexpr milliseconds kVmmLimit{1000};
constexpr milliseconds kGuestLimit{1000};
constexpr milliseconds kContainersLimit{1000};

// Of a process that still is the one that was recorded.
void AddProcess(const ProcessRecord& record, const std::string& container,
                std::vector<observe::ProcessUsage>& out) {
  if (record.pid <= 0 || !IsAlive(record)) {
    return;
  }
  auto usage = observe::ReadProcessUsage(record.pid);
  if (!usage.has_value() || !IsAlive(record)) {
    return;
  }
  usage->role = record.role;
  usage->container = container;
  out.push_back(*std::move(usage));
}

std::vector<observe::ProcessUsage> ProcessesOf(const SandboxRecord& record) {
  std::vector<observe::ProcessUsage> out;
  AddProcess(record.owner, "", out);
  for (const ProcessRecord& process : record.processes) {
    AddProcess(process, "", out);
  }
  for (const auto& [id, container] : record.containers) {
    for (const ProcessRecord& process : container.processes) {
      AddProcess(process, id, out);
    }
  }
  return out;
}

// Nothing for "max", and where there is no memory controller.
std::optional<uint64_t> ReadLimit(const std::string& path) {
  const auto text = ReadFile(path, size_t{64});
  uint64_t value = 0;
  if (!text.has_value() ||
      std::from_chars(text->data(), text->data() + text->size(), value).ec != std::errc()) {
    return std::nullopt;
  }
  return value;
}

observe::CgroupUsage UsageOf(const Cgroup& cgroup) {
  return {.memory_current = ReadLimit(cgroup.directory() + "/memory.current"),
          .memory_max = ReadLimit(cgroup.directory() + "/memory.max"),
          .oom_kills = cgroup.OutOfMemoryKills()};
}

observe::GuestUsage FromGuest(const agent_pb::GuestUsageResponse& in) {
  observe::GuestUsage out;
  out.memory_total = in.memory_total();
  out.memory_free = in.memory_free();
  out.memory_available = in.memory_available();
  out.buffers = in.buffers();
  out.cached = in.cached();
  out.shmem = in.shmem();
  out.slab_reclaimable = in.slab_reclaimable();
  out.dirty = in.dirty();
  out.swap_total = in.swap_total();
  out.swap_free = in.swap_free();
  out.oom_kills = in.oom_kills();
  out.refused_calls = in.refused_calls();
  out.cpu_user_usec = in.cpu_user_usec();
  out.cpu_system_usec = in.cpu_system_usec();
  out.cpu_idle_usec = in.cpu_idle_usec();
  out.cpu_steal_usec = in.cpu_steal_usec();
  out.cpus_online = in.cpus_online();
  out.cpu_some_usec = in.cpu_some_usec();
  out.memory_some_usec = in.memory_some_usec();
  out.memory_full_usec = in.memory_full_usec();
  out.io_some_usec = in.io_some_usec();
  out.io_full_usec = in.io_full_usec();
  return out;
}

observe::ContainerUsage FromGuest(const std::string& id,
                                  const agent_pb::ContainerStatsResponse& in) {
  observe::ContainerUsage out;
  out.id = id;
  out.cpu_usec = in.cpu_usage_usec();
  out.memory_current = in.memory_current();
  if (in.memory_limit() != UINT64_MAX) {
    out.memory_limit = in.memory_limit();
  }
  out.pids = in.pids_current();
  const auto kills = in.memory_events().find("oom_kill");
  out.oom_kills = kills == in.memory_events().end() ? 0 : kills->second;
  return out;
}

}  // namespace

observe::Observation SandboxImpl::Observe() {
  observe::Observation seen;
  if (state_ != nullptr) {
    seen.processes = ProcessesOf(state_->Snapshot());
  }
  if (cgroup_.has_value()) {
    seen.cgroup = UsageOf(*cgroup_);
  }
  const std::vector<std::string> ids = ContainerIds();
  seen.container_count = ids.size();
  if (!CheckAlive().has_value()) {
    return seen;
  }
  if (auto vmm = machine_->Usage(kVmmLimit); vmm.has_value()) {
    seen.vmm = *std::move(vmm);
  } else {
    WV_DEBUG("sandbox {}: figures of the VMM: {}", options_.id, vmm.error().message());
  }
  const auto guest = agent_->GuestUsage(kGuestLimit);
  if (!guest.has_value()) {
    return seen;  // it would not tell of its containers, either
  }
  seen.guest = FromGuest(*guest);
  const auto deadline = steady_clock::now() + kContainersLimit;
  for (const std::string& id : ids) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    if (left.count() <= 0) {
      break;
    }
    if (const auto stats = agent_->ContainerStats(id, left); stats.has_value()) {
      seen.containers.push_back(FromGuest(id, *stats));
    }
  }
  return seen;
}

observe::EventLog& SandboxImpl::Events() {
  return events_;
}

// Before it is told of the end of a process that died at once.
void SandboxImpl::TellStarted(const std::string& id, const ProcessPtr& init) {
  const std::lock_guard lock(mu_);
  if (!std::exchange(init->start_told, true)) {
    events_.Add(observe::EventKind::kStarted, id, "");
  }
}

void SandboxImpl::TellExited(const std::string& id, const ProcessPtr& init, uint32_t status) {
  {
    const std::lock_guard lock(mu_);
    if (init->status == ProcessStatus::kCreated && !init->starting) {
      return;  // it never ran
    }
  }
  TellStarted(id, init);
  events_.Add(observe::EventKind::kExited, id, fmt::format("status {}", status));
}

}  // namespace wyvern::runtime
