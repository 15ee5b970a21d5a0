#include "arch/address_plan.h"

#include <algorithm>

#include <fmt/format.h>

#include "arch/x86_64/layout.h"

namespace wyvern::arch {

namespace {

constexpr uint64_t kMinRam = 32 * kMiB;

uint64_t AlignUp(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace

Result<AddressPlan> PlanAddresses(uint64_t ram, uint64_t hotplug, unsigned physical_bits) {
  if (ram < kMinRam || ram % (2 * kMiB) != 0) {
    return Fail(
        Code::kInvalidArgument,
        fmt::format("memory size {} bytes: must be a multiple of 2 MiB and at least 32 MiB", ram));
  }
  if (hotplug % (2 * kMiB) != 0) {
    return Fail(Code::kInvalidArgument,
                fmt::format("memory to plug {} bytes: must be a multiple of 2 MiB", hotplug));
  }
  const uint64_t limit = 1ULL << std::clamp(physical_bits, 32U, 52U);
  AddressPlan plan;
  plan.ram.push_back({.start = 0, .size = std::min(ram, kHoleStart)});
  uint64_t end = kHoleEnd;
  if (ram > kHoleStart) {
    const uint64_t rest = ram - kHoleStart;
    if (rest > limit - std::min(limit, kHoleEnd)) {
      return Fail(Code::kOutOfRange,
                  fmt::format("memory size {} MiB: this CPU has only {} physical address bits",
                              ram / kMiB, physical_bits));
    }
    plan.ram.push_back({.start = kHoleEnd, .size = rest});
    end = kHoleEnd + rest;
  }
  plan.pci32 = {.start = kPci32Start, .size = kPci32Size};
  plan.ecam = {.start = kEcamStart, .size = kEcamSize};
  plan.pci_buses = kPciBuses;

  // What is left above RAM: persistent memory first (it must be near RAM for the guest's memory map), memory to plug, then PCI.
  const uint64_t pmem_start = std::min(AlignUp(end, kHighAlignment), limit);
  plan.pmem = {.start = pmem_start, .size = std::min(kPmemWindowSize, limit - pmem_start)};
  uint64_t pci_start = plan.pmem.end();
  if (hotplug > limit - pci_start) {
    return Fail(Code::kOutOfRange,
                fmt::format("memory to plug {} MiB: this CPU has only {} physical address bits",
                            hotplug / kMiB, physical_bits));
  }
  plan.hotplug = {.start = pci_start, .size = hotplug};
  pci_start = std::min(AlignUp(plan.hotplug.end(), kHighAlignment), limit);
  const uint64_t left = limit - pci_start;
  if (left >= kPci64MinSize) {
    plan.pci64 = {.start = pci_start, .size = std::min(kPci64MaxSize, left)};
  }
  return plan;
}

}  // namespace wyvern::arch
