#include "arch/x86_64/features.h"

#include <asm/kvm_para.h>

#include <algorithm>
#include <bit>

namespace wyvern::arch {

namespace {

// Leaf 1.
constexpr uint32_t k1EcxMonitor = 1U << 3U;
constexpr uint32_t k1EcxVmx = 1U << 5U;
constexpr uint32_t k1EcxSmx = 1U << 6U;
constexpr uint32_t k1EcxPdcm = 1U << 15U;
constexpr uint32_t k1EcxX2Apic = 1U << 21U;
constexpr uint32_t k1EcxTscDeadline = 1U << 24U;
constexpr uint32_t k1EcxHypervisor = 1U << 31U;
constexpr uint32_t k1EdxHtt = 1U << 28U;
// Leaf 6.
constexpr uint32_t k6EaxArat = 1U << 2U;
// Leaf 7.
constexpr uint32_t k7EbxSgx = 1U << 2U;
constexpr uint32_t k7EbxIntelPt = 1U << 25U;
// Leaf 0x80000001.
constexpr uint32_t kExt1EcxSvm = 1U << 2U;
constexpr uint32_t kExt1EcxSkinit = 1U << 12U;
constexpr uint32_t kExt1EcxPerfCore = 1U << 23U;

// cpuid.rst: KVM_FEATURE_* that a guest may use.
constexpr uint32_t kKvmFeatures =
    1U << KVM_FEATURE_CLOCKSOURCE | 1U << KVM_FEATURE_NOP_IO_DELAY |
    1U << KVM_FEATURE_CLOCKSOURCE2 | 1U << KVM_FEATURE_STEAL_TIME | 1U << KVM_FEATURE_PV_EOI |
    1U << KVM_FEATURE_PV_UNHALT | 1U << KVM_FEATURE_PV_TLB_FLUSH | 1U << KVM_FEATURE_PV_SEND_IPI |
    1U << KVM_FEATURE_POLL_CONTROL | 1U << KVM_FEATURE_PV_SCHED_YIELD |
    1U << KVM_FEATURE_CLOCKSOURCE_STABLE_BIT;

void Clear(kvm_cpuid_entry2* entry) {
  entry->eax = 0;
  entry->ebx = 0;
  entry->ecx = 0;
  entry->edx = 0;
}

void SetField(uint32_t* word, unsigned low, unsigned bits, uint32_t value) {
  const uint32_t mask = ((bits == 32 ? 0 : 1U << bits) - 1U) << low;
  *word = (*word & ~mask) | ((value << low) & mask);
}

// Bits of an APIC id that number the cores of the package.
uint32_t CoreBits(uint32_t vcpus) {
  return static_cast<uint32_t>(std::bit_width(std::max(vcpus, 1U) - 1U));
}

void SetLeaf1(kvm_cpuid_entry2* entry, const CpuIdentity& cpu) {
  SetField(&entry->ebx, 24, 8, cpu.apic_id);
  SetField(&entry->ebx, 16, 8, std::min(cpu.vcpus, 255U));
  entry->ecx &= ~(k1EcxMonitor | k1EcxVmx | k1EcxSmx | k1EcxPdcm | k1EcxTscDeadline);
  entry->ecx |= k1EcxX2Apic | k1EcxHypervisor | (cpu.tsc_deadline ? k1EcxTscDeadline : 0U);
  entry->edx &= ~k1EdxHtt;
  entry->edx |= cpu.vcpus > 1 ? k1EdxHtt : 0U;
}

// Leaves 4 and 0x8000001d: who shares a cache. L3 and above belong to the package, the others to one core.
void SetCacheLeaf(kvm_cpuid_entry2* entry, const CpuIdentity& cpu) {
  const uint32_t type = entry->eax & 0x1fU;
  if (type == 0) {
    return;
  }
  const uint32_t level = (entry->eax >> 5U) & 7U;
  SetField(&entry->eax, 14, 12, level >= 3 ? (1U << CoreBits(cpu.vcpus)) - 1U : 0U);
  if (entry->function == 4) {
    SetField(&entry->eax, 26, 6, (1U << CoreBits(cpu.vcpus)) - 1U);
  }
}

// Leaves 0xb and 0x1f: level 0 threads, level 1 cores, then nothing.
void SetTopologyLeaf(kvm_cpuid_entry2* entry, const CpuIdentity& cpu) {
  const uint32_t level = entry->index;
  Clear(entry);
  entry->edx = cpu.apic_id;
  entry->ecx = level & 0xffU;
  if (level == 0) {
    entry->ebx = 1;
    entry->ecx |= 1U << 8U;
  } else if (level == 1) {
    entry->eax = CoreBits(cpu.vcpus);
    entry->ebx = cpu.vcpus;
    entry->ecx |= 2U << 8U;
  }
}

void SetExtended8(kvm_cpuid_entry2* entry, const CpuIdentity& cpu) {
  SetField(&entry->ecx, 0, 8, cpu.vcpus - 1);
  SetField(&entry->ecx, 12, 4, CoreBits(cpu.vcpus));
}

void SetLeaf(kvm_cpuid_entry2* entry, const CpuIdentity& cpu) {
  switch (entry->function) {
    case 0x1:
      SetLeaf1(entry, cpu);
      return;
    case 0x4:
    case 0x8000001d:
      SetCacheLeaf(entry, cpu);
      return;
    case 0x6:
      Clear(entry);
      entry->eax = k6EaxArat;  // the APIC timer never stops: no other timer is needed
      return;
    case 0x7:
      if (entry->index == 0) {
        entry->ebx &= ~(k7EbxSgx | k7EbxIntelPt);
      }
      return;
    case 0xa:         // PMU
    case 0x12:        // SGX
    case 0x14:        // Intel PT
    case 0x8000000a:  // SVM
    case 0x8000001b:  // IBS
    case 0x8000001f:  // SEV
    case 0x80000022:  // PMU
      Clear(entry);
      return;
    case 0xb:
    case 0x1f:
      SetTopologyLeaf(entry, cpu);
      return;
    case 0x40000001:
      entry->eax &= kKvmFeatures;
      return;
    case 0x80000001:
      entry->ecx &= ~(kExt1EcxSvm | kExt1EcxSkinit | kExt1EcxPerfCore);
      return;
    case 0x80000008:
      SetExtended8(entry, cpu);
      return;
    case 0x8000001e:
      Clear(entry);
      entry->eax = cpu.apic_id;
      entry->ebx = cpu.apic_id & 0xffU;  // core id, one thread per core
      return;
    default:
      return;
  }
}

}  // namespace

std::vector<kvm_cpuid_entry2> GuestCpuid(std::span<const kvm_cpuid_entry2> supported,
                                         const CpuIdentity& cpu) {
  std::vector<kvm_cpuid_entry2> out;
  uint32_t highest_basic = 0;
  for (const kvm_cpuid_entry2& entry : supported) {
    if (entry.function == 0) {
      highest_basic = entry.eax;
    }
    // Topology leaves are written anew below, with the levels that this machine has.
    if (entry.function != 0xb && entry.function != 0x1f) {
      out.push_back(entry);
      SetLeaf(&out.back(), cpu);
    }
  }
  for (const uint32_t function : {0xbU, 0x1fU}) {
    for (uint32_t level = 0; function <= highest_basic && level < 3; ++level) {
      kvm_cpuid_entry2 entry{};
      entry.function = function;
      entry.index = level;
      entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
      SetLeaf(&entry, cpu);
      out.push_back(entry);
    }
  }
  return out;
}

unsigned PhysicalBits(std::span<const kvm_cpuid_entry2> supported) {
  for (const kvm_cpuid_entry2& entry : supported) {
    if (entry.function == 0x80000008) {
      const unsigned bits = entry.eax & 0xffU;
      // Bits 16-23 narrow it for guests where they are set (AMD APM).
      const unsigned guest_bits = (entry.eax >> 16U) & 0xffU;
      return guest_bits != 0 && guest_bits < bits ? guest_bits : bits;
    }
  }
  return 36;
}

}  // namespace wyvern::arch
