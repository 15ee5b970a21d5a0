#include "sandbox/vcpu_pins.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <optional>

#include "base/check.h"

namespace wyvern::runtime {
namespace {

constexpr size_t kMaxCpus = 8192;
constexpr size_t kWordBits =
    8 * sizeof(unsigned long);  // NOLINT(google-runtime-int): the call's type
using CpuMask = std::array<unsigned long, kMaxCpus / kWordBits>;  // NOLINT(google-runtime-int)

// To `cpu`, or to all.
Result<> Bind(const VcpuThread& vcpu, std::optional<uint32_t> cpu) {
  CpuMask mask;
  mask.fill(cpu.has_value() ? 0 : ~0UL);
  if (cpu.has_value()) {
    WV_CHECK(*cpu < kMaxCpus);
    mask.at(*cpu / kWordBits) = 1UL << (*cpu % kWordBits);
  }
  if (syscall(SYS_sched_setaffinity, vcpu.thread, sizeof(mask), mask.data()) != 0) {
    return SysError(cpu.has_value() ? fmt::format("bind vCPU {} to CPU {}", vcpu.vcpu, *cpu)
                                    : fmt::format("let vCPU {} go", vcpu.vcpu));
  }
  return {};
}

}  // namespace

Result<> VcpuPins::Apply(const std::vector<VcpuThread>& vcpus, const std::vector<uint32_t>& cpus) {
  const bool pin = !vcpus.empty() && vcpus.size() == cpus.size();
  if (!pin && !pinned_) {
    return {};
  }
  // Before the first: a failure in the middle leaves some bound.
  pinned_ = true;
  for (size_t i = 0; i < vcpus.size(); ++i) {
    WV_TRY_VOID(Bind(vcpus[i], pin ? std::optional(cpus[i]) : std::nullopt));
  }
  pinned_ = pin;
  return {};
}

}  // namespace wyvern::runtime
