#include "sandbox/host_limits.h"

namespace wyvern::runtime {
namespace {

// Swap has no meaning in the guest, which has none: it is the host that may swap the guest's memory out, and containers say how much of it.
void LimitSwapAlone(Limits& sum) {
  const int64_t memory = sum.memory_limit.value_or(-1), together = sum.memory_swap.value_or(-1);
  sum.swap_alone = memory > 0 && together >= memory ? together - memory : -1;
  sum.memory_limit.reset();
  sum.memory_swap.reset();
}

void LeaveOut(Limits& sum, const std::set<std::string>& controllers) {
  if (!controllers.contains("cpu")) {
    sum.cpu_shares.reset();
    sum.cpu_quota.reset();
    sum.cpu_period.reset();
    sum.cpu_burst.reset();
    sum.cpu_idle.reset();
  }
  if (!controllers.contains("memory")) {
    sum.swap_alone.reset();
    sum.memory_reservation.reset();
  }
}

}  // namespace

Result<> HostLimits::Apply(Cgroup& cgroup, const std::vector<Limits>& containers) {
  SandboxLimits all({.memory = 0, .cpu_quota = overhead_quota_});
  for (size_t i = 0; i < containers.size(); ++i) {
    all.Set(std::to_string(i), containers[i]);
  }
  Limits sum = all.Sum();
  if (containers.empty()) {
    sum.cpu_quota = -1;
  }
  cpus_ = sum.cpus.value_or("");
  LimitSwapAlone(sum);
  LeaveOut(sum, cgroup.Controllers());
  for (const auto& [device, limit] : sum.io_limits) {
    limited_.insert(device);
  }
  for (const BlockDeviceNumber& device : limited_) {
    constexpr IoLimit kNone{
        .read_bytes = 0, .write_bytes = 0, .read_operations = 0, .write_operations = 0};
    sum.io_limits.emplace(device, kNone);
  }
  for (const auto& [device, weight] : sum.io_weights) {
    weighted_.insert(device);
  }
  for (const BlockDeviceNumber& device : weighted_) {
    sum.io_weights.emplace(device, 0);
  }
  return cgroup.Apply(sum);
}

}  // namespace wyvern::runtime
