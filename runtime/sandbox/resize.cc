// The machine follows its containers: it grows before one that needs it is made, and shrinks after one has ended or needs less.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <thread>

#include "base/check.h"
#include "base/log.h"
#include "sandbox/host_memory.h"
#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {
namespace {

// A shrink lets others in after so long: one that waits to grow is waited for by a client.
constexpr std::chrono::milliseconds kShrinkSlice{5000};

// Beyond what it uses, a guest needs some to move pages out of what goes, and until it is asked again.
constexpr uint64_t kGuestRoom = 64ULL << 20U;
constexpr std::chrono::milliseconds kUsageTime{5000};

// What containerd's CRI tells a pod's pause of the containers that will come: their sums.
constexpr char kPodCpuQuota[] = "io.kubernetes.cri.sandbox-cpu-quota";
constexpr char kPodCpuPeriod[] = "io.kubernetes.cri.sandbox-cpu-period";
constexpr char kPodMemory[] = "io.kubernetes.cri.sandbox-memory";

std::optional<int64_t> NumberOf(const oci::Facts& facts, const char* name) {
  const auto it = facts.annotations.find(name);
  if (it == facts.annotations.end()) {
    return std::nullopt;
  }
  const std::string& text = it->second;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    WV_INFO("annotation {}: not a number: ignored", name);
    return std::nullopt;
  }
  return value == 0 ? std::nullopt : std::optional(value);  // how CRI writes that there is none
}

// What is known of its containers when a sandbox starts.
Limits LimitsAtStart(const oci::Facts& facts) {
  if (!facts.stands_for_pod) {
    return facts.limits;
  }
  Limits limits;
  limits.cpu_quota = NumberOf(facts, kPodCpuQuota);
  limits.memory_limit = NumberOf(facts, kPodMemory);
  if (const auto period = NumberOf(facts, kPodCpuPeriod); period.has_value()) {
    limits.cpu_period = static_cast<uint64_t>(*period);
  }
  return limits;
}

Result<> Bad(const std::string& what) {
  return Fail(Code::kInvalidArgument, what);
}

// Within the plan.
Result<> CheckWish(const SizeWish& wish, const SizePlan& plan) {
  if (!wish.vcpus.has_value() && !wish.memory.has_value()) {
    return Bad("nothing to resize: give a number of vCPUs, a size of memory, or both");
  }
  if (wish.vcpus.has_value() && (*wish.vcpus < 1 || *wish.vcpus > plan.most.vcpus)) {
    return Bad(
        fmt::format("{} vCPUs: must be 1 to {} (sandbox.max_vcpus)", *wish.vcpus, plan.most.vcpus));
  }
  if (wish.memory.has_value() &&
      (*wish.memory < plan.boot.memory || *wish.memory > plan.most.memory)) {
    return Bad(
        fmt::format("{} MiB of memory: must be {} MiB, which the sandbox booted with, to {} MiB "
                    "(sandbox.max_memory)",
                    *wish.memory >> 20U, plan.boot.memory >> 20U, plan.most.memory >> 20U));
  }
  return {};
}

Result<> CheckLeast(const SizeWish& wish, const GuestSize& least) {
  const bool vcpus = wish.vcpus.has_value() && *wish.vcpus < least.vcpus;
  const bool memory = wish.memory.has_value() && *wish.memory < least.memory;
  if (!vcpus && !memory) {
    return {};
  }
  return Fail(
      Code::kFailedPrecondition,
      fmt::format("the limits of its containers need {}: lower those first (a task's Update)",
                  vcpus ? fmt::format("{} vCPUs", least.vcpus)
                        : fmt::format("{} MiB of memory", least.memory >> 20U)));
}

}  // namespace

SizePlan SandboxImpl::PlanMachine(MachineOptions& machine) const {
  SizePlan plan = PlanSize(NeedOf({LimitsAtStart(facts_)}), config_.sandbox, SizeOfHost());
  plan.boot.memory = RoundToPages(plan.boot.memory, machine.ram_pages);
  plan.most.memory = std::max(plan.most.memory, plan.boot.memory);
  machine.vcpus = plan.boot.vcpus;
  machine.max_vcpus = plan.most.vcpus;
  machine.memory_bytes = plan.boot.memory;
  const uint64_t more = plan.most.memory - plan.boot.memory;
  machine.hotplug_memory_bytes = (more + kHotplugStep - 1) / kHotplugStep * kHotplugStep;
  return plan;
}

Result<> SandboxImpl::LimitHost(uint64_t guest_memory) {
  WV_CHECK(cgroup_.has_value());  // MakeCgroup came before
  WV_TRY_CONTEXT(const bool limited,
                 cgroup_->LimitMemory(HostMemoryLimit(guest_memory, config_.overhead.memory)),
                 "limiting the sandbox's memory");
  if (!limited) {
    WV_DEBUG("sandbox {}: no memory controller in {}: no limit on the host", options_.id,
             cgroup_->directory());
  }
  return {};
}

Result<uint64_t> SandboxImpl::MemoryInUse(uint64_t memory) const {
  WV_TRY_CONTEXT(const agent_pb::GuestUsageResponse usage, agent_->GuestUsage(kUsageTime),
                 "asking the guest what it uses");
  return memory - std::min(memory, usage.memory_available()) + kGuestRoom;
}

Need SandboxImpl::NeedOfContainers() {
  std::vector<Limits> limits;
  const std::lock_guard lock(mu_);
  for (const auto& [id, container] : containers_) {
    if (container->counts && !container->Stopped()) {
      limits.push_back(container->limits);
    }
  }
  return NeedOf(limits);
}

GuestSize SandboxImpl::WantedSize() {
  const Need need = NeedOfContainers();
  const GuestSize least = LeastFor(need);
  GuestSize size = SizeFor(need, {config_.sandbox.vcpus, config_.sandbox.memory});
  if (wish_.vcpus.has_value()) {
    size.vcpus = std::max(*wish_.vcpus, least.vcpus);
  }
  if (wish_.memory.has_value()) {
    size.memory = std::max(*wish_.memory, least.memory);
  }
  const SizePlan& plan = sizer_->plan();
  const GuestSize cut = CutTo(size, plan.most);
  if (cut != size && size != told_cut_) {
    told_cut_ = size;
    WV_WARN(
        "sandbox {}: its containers may use {} vCPUs and {} MiB, it can have {} and {} "
        "(sandbox.max_vcpus, sandbox.max_memory)",
        options_.id, size.vcpus, size.memory >> 20U, plan.most.vcpus, plan.most.memory >> 20U);
  }
  return {cut.vcpus, std::max(cut.memory, plan.boot.memory)};
}

Result<> SandboxImpl::GrowTo(const GuestSize& wanted) {
  const GuestSize now = sizer_->now();
  const GuestSize size = {std::max(now.vcpus, wanted.vcpus), std::max(now.memory, wanted.memory)};
  if (size == now) {
    return {};
  }
  const int64_t start = timeline_.Now();
  WV_TRY_VOID(sizer_->Set(size));
  timeline_.Add("resize", start);
  WV_INFO("sandbox {}: {} vCPUs, {} MiB of memory", options_.id, sizer_->now().vcpus,
          sizer_->now().memory >> 20U);
  PinVcpus();
  return {};
}

Result<> SandboxImpl::Grow() {
  const std::lock_guard resizing(resize_mu_);
  return GrowTo(WantedSize());
}

// With nobody left the sandbox most likely ends, and its machine with it; a pod waits for its next container.
void SandboxImpl::ShrinkAfterExit() {
  bool others = false;
  {
    const std::lock_guard lock(mu_);
    const auto first = containers_.find(options_.id);
    others = facts_.stands_for_pod && first != containers_.end() && !first->second->Stopped();
    for (const auto& [id, container] : containers_) {
      others |= container->counts && !container->Stopped();
    }
  }
  if (others) {
    ShrinkSoon();
  }
}

void SandboxImpl::ShrinkSoon() {
  {
    const std::lock_guard lock(mu_);
    shrink_asked_ = true;
    if (shrinks_ || death_.has_value() || stopping_) {
      return;
    }
    shrinks_ = true;
  }
  pool_->Run([this] {
    while (true) {
      {
        const std::lock_guard lock(mu_);
        if (!shrink_asked_ || death_.has_value() || stopping_) {
          shrinks_ = false;
          return;
        }
        shrink_asked_ = false;
      }
      Shrink();
    }
  });
}

void SandboxImpl::Shrink() {
  const auto slice = std::min(kShrinkSlice, config_.timeouts.resize);
  GuestSizer::Shrunk shrunk;
  do {
    const std::lock_guard resizing(resize_mu_);
    const GuestSize before = sizer_->now();
    shrunk = sizer_->Shrink(WantedSize(), slice);
    if (shrunk.moved) {
      WV_INFO("sandbox {}: {} vCPUs, {} MiB of memory instead of {} and {}", options_.id,
              sizer_->now().vcpus, sizer_->now().memory >> 20U, before.vcpus, before.memory >> 20U);
      PinVcpus();
    }
  } while (shrunk.moved && !shrunk.kept.empty() && CheckAlive().has_value());
  if (!shrunk.kept.empty() && CheckAlive().has_value()) {
    WV_INFO("sandbox {}: {}; tried again when its containers change next", options_.id,
            shrunk.kept);
  }
}

Result<SandboxSize> SandboxImpl::Resize(const SizeWish& wish) {
  WV_TRY_VOID(CheckAlive());
  {
    const std::lock_guard resizing(resize_mu_);
    const SizePlan& plan = sizer_->plan();
    SizeWish whole = wish;
    if (whole.memory.has_value()) {
      whole.memory = RoundUpMemory(*whole.memory);
    }
    WV_TRY_VOID(CheckWish(whole, plan));
    WV_TRY_VOID(CheckLeast(whole, CutTo(LeastFor(NeedOfContainers()), plan.most)));
    const GuestSize now = sizer_->now();
    WV_TRY_VOID(sizer_->Set({whole.vcpus.value_or(now.vcpus), whole.memory.value_or(now.memory)}));
    wish_.vcpus = whole.vcpus.has_value() ? whole.vcpus : wish_.vcpus;
    wish_.memory = whole.memory.has_value() ? whole.memory : wish_.memory;
    PinVcpus();
  }
  return Size();
}

Result<SandboxSize> SandboxImpl::Size() {
  WV_TRY_VOID(CheckAlive());
  WV_TRY(const MachineSize now, machine_->Size());
  const SizePlan& plan = sizer_->plan();
  SandboxSize size;
  for (const VcpuThread& each : now.vcpus) {
    size.vcpus.push_back({each.vcpu, each.thread});
  }
  size.max_vcpus = plan.most.vcpus;
  size.memory = now.memory_bytes;
  size.boot_memory = plan.boot.memory;
  size.max_memory = plan.most.memory;
  return size;
}

}  // namespace wyvern::runtime
