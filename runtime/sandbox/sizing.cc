#include "sandbox/sizing.h"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <optional>

namespace wyvern::runtime {
namespace {

constexpr uint64_t kGuestOverhead =
    96ULL << 20U;  // kernel, agent and page tables beside a container's limit
constexpr uint64_t kDefaultMaxMemory = 32ULL << 30U;
constexpr uint64_t kLargest = std::numeric_limits<uint64_t>::max();

uint64_t Plus(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? kLargest : sum;
}

// µs in kDefaultCpuPeriod, rounded up.
std::optional<uint64_t> TimeOfQuota(const Limits& limits) {
  const int64_t quota = limits.cpu_quota.value_or(0);
  if (quota <= 0) {
    return std::nullopt;
  }
  const uint64_t given = limits.cpu_period.value_or(0);
  const uint64_t period = given == 0 ? kDefaultCpuPeriod : given;
  uint64_t time = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(quota), kDefaultCpuPeriod, &time)) {
    return kLargest;
  }
  return time / period + (time % period == 0 ? 0 : 1);
}

std::optional<uint64_t> TimeOfSet(const Limits& limits) {
  const std::string& list = limits.cpus.has_value() ? *limits.cpus : std::string();
  const auto cpus = ParseCpuList(list);
  if (list.empty() || !cpus.has_value()) {
    return std::nullopt;
  }
  return cpus->size() * kDefaultCpuPeriod;
}

std::optional<uint64_t> CpuTimeOf(const Limits& limits) {
  const auto quota = TimeOfQuota(limits);
  const auto set = TimeOfSet(limits);
  return quota && set ? std::min(*quota, *set) : quota ? quota : set;
}

uint32_t VcpusFor(uint64_t cpu_time) {
  const uint64_t vcpus = cpu_time / kDefaultCpuPeriod + (cpu_time % kDefaultCpuPeriod == 0 ? 0 : 1);
  return static_cast<uint32_t>(std::min<uint64_t>(vcpus, std::numeric_limits<uint32_t>::max()));
}

uint32_t PlusVcpus(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(
      std::min<uint64_t>(uint64_t{a} + b, std::numeric_limits<uint32_t>::max()));
}

uint64_t RoundDownMemory(uint64_t bytes) {
  return bytes / kMemoryGranule * kMemoryGranule;
}

}  // namespace

uint64_t RoundUpMemory(uint64_t bytes) {
  return bytes > kLargest - kMemoryGranule ? RoundDownMemory(kLargest)
                                           : RoundDownMemory(bytes + kMemoryGranule - 1);
}

Need NeedOf(const std::vector<Limits>& containers) {
  Need need;
  for (const Limits& limits : containers) {
    if (const auto time = CpuTimeOf(limits); time.has_value()) {
      need.cpu_time = Plus(need.cpu_time, *time);
    } else {
      need.cpu_unlimited = true;
    }
    if (const int64_t memory = limits.memory_limit.value_or(0); memory > 0) {
      need.memory = Plus(need.memory, static_cast<uint64_t>(memory));
    } else {
      need.memory_unlimited = true;
    }
  }
  return need;
}

GuestSize LeastFor(const Need& need) {
  return {VcpusFor(need.cpu_time),
          need.memory == 0 ? 0 : RoundUpMemory(Plus(need.memory, kGuestOverhead))};
}

GuestSize SizeFor(const Need& need, const GuestSize& base) {
  GuestSize size = LeastFor(need);
  if (need.cpu_unlimited && size.vcpus > 0) {
    size.vcpus = PlusVcpus(size.vcpus, base.vcpus);
  }
  if (need.memory_unlimited && size.memory > 0) {
    size.memory = RoundUpMemory(Plus(size.memory, base.memory));
  }
  return {std::max(size.vcpus, base.vcpus), std::max(size.memory, base.memory)};
}

HostSize SizeOfHost() {
  const auto ask = [](int name) { return static_cast<uint64_t>(std::max<long>(sysconf(name), 1)); };
  return {static_cast<uint32_t>(ask(_SC_NPROCESSORS_ONLN)),
          ask(_SC_PHYS_PAGES) * ask(_SC_PAGESIZE)};
}

SizePlan PlanSize(const Need& need, const Config::Sandbox& config, const HostSize& host) {
  const GuestSize base = {config.vcpus, config.memory};
  const uint64_t host_memory = RoundDownMemory(host.memory);
  // A limit known now is booted with up to all of the host; what comes later is plugged, which the default of max_memory bounds.
  const GuestSize at_once = {config.max_vcpus > 0 ? config.max_vcpus : host.processors,
                             config.max_memory > 0 ? config.max_memory : host_memory};
  SizePlan plan;
  plan.boot = CutTo(SizeFor(need, base), {std::min(at_once.vcpus, kMaxBootVcpus), at_once.memory});
  plan.boot = {std::max(plan.boot.vcpus, base.vcpus), std::max(plan.boot.memory, base.memory)};
  plan.most.vcpus = std::max(std::min(at_once.vcpus, kMaxVcpus), plan.boot.vcpus);
  plan.most.memory =
      std::max(config.max_memory > 0 ? config.max_memory : std::min(host_memory, kDefaultMaxMemory),
               plan.boot.memory);
  return plan;
}

GuestSize CutTo(const GuestSize& size, const GuestSize& most) {
  return {std::min(size.vcpus, most.vcpus), std::min(size.memory, most.memory)};
}

}  // namespace wyvern::runtime
