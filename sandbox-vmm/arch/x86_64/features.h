// arch/x86_64/features.h — what a guest CPU says about itself: CPUID as data in, data out.
// Spec:    Intel SDM vol. 2A CPUID; AMD APM vol. 3 appendix E; Linux Documentation/virt/kvm/x86/cpuid.rst.
// Shape:   from KVM_GET_SUPPORTED_CPUID to KVM_SET_CPUID2 of one vCPU. One package, one thread per core.
// Policy:  no nested virtualization, no PMU, no SGX, PT or SEV; kvmclock and the paravirtual EOI, TLB flush and IPI; no async page faults.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <vector>

namespace wyvern::arch {

struct CpuIdentity {
  uint32_t apic_id = 0;
  uint32_t vcpus = 1;
  bool tsc_deadline = true;  // KVM_CAP_TSC_DEADLINE_TIMER
};

std::vector<kvm_cpuid_entry2> GuestCpuid(std::span<const kvm_cpuid_entry2> supported,
                                         const CpuIdentity& cpu);

// Guest physical address bits that `supported` allows; 36 where the leaf is missing.
unsigned PhysicalBits(std::span<const kvm_cpuid_entry2> supported);

}  // namespace wyvern::arch
