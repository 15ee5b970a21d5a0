#include "hypervisor/size_check.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <set>

namespace wyvern::runtime {
namespace {

uint32_t MaxVcpus(const MachineOptions& options) {
  return std::max(options.vcpus, options.max_vcpus);
}

}  // namespace

Result<> CheckVcpus(uint64_t vcpus, const MachineOptions& options) {
  if (vcpus < 1 || vcpus > MaxVcpus(options)) {
    return Fail(Code::kInternal,
                fmt::format("the VMM says that {} vCPUs run, of {}", vcpus, MaxVcpus(options)));
  }
  return {};
}

Result<> CheckMemory(uint64_t bytes, const MachineOptions& options) {
  if (bytes < options.memory_bytes || bytes - options.memory_bytes > options.hotplug_memory_bytes) {
    return Fail(Code::kInternal,
                fmt::format("the VMM says that there are {} bytes of memory", bytes));
  }
  return {};
}

Result<> CheckSize(const MachineSize& size, const MachineOptions& options, pid_t vmm) {
  WV_TRY_VOID(CheckMemory(size.memory_bytes, options));
  WV_TRY_VOID(CheckVcpus(size.vcpus.size(), options));
  std::set<uint32_t> seen;
  for (const VcpuThread& each : size.vcpus) {
    const std::string task = fmt::format("/proc/{}/task/{}", vmm, each.thread);
    if (each.vcpu >= MaxVcpus(options) || !seen.insert(each.vcpu).second || each.thread <= 0 ||
        access(task.c_str(), F_OK) != 0) {
      return Fail(Code::kInternal, fmt::format("the VMM says that vCPU {} is thread {}, which is "
                                               "none of its threads, or another's",
                                               each.vcpu, each.thread));
    }
  }
  return {};
}

}  // namespace wyvern::runtime
