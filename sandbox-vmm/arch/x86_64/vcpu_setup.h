// arch/x86_64/vcpu_setup.h — a vCPU's registers at the PVH entry, its CPUID and MSRs; and registers as text.
// Spec:    Xen docs/misc/pvh.pandoc (32-bit protected mode, paging off, flat segments, ebx = start info).
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "arch/x86_64/features.h"
#include "base/error.h"
#include "kvm/kvm.h"

namespace wyvern::arch {

Result<std::vector<kvm_cpuid_entry2>> SupportedCpuid(const kvm::Kvm& kvm);

// Every vCPU: CPUID, MSRs. The local APIC is as after reset.
Result<> SetUpCpu(const kvm::Vcpu& vcpu, std::span<const kvm_cpuid_entry2> supported,
                  const CpuIdentity& cpu);

// The boot CPU only; the others wait for INIT and SIPI.
Result<> SetPvhEntry(const kvm::Vcpu& vcpu, uint32_t entry, uint32_t start_info);

// It has had no INIT and SIPI since it was made or reset, or it has halted with interrupts off, as Linux leaves a CPU that it takes off line
// (arch/x86/kernel/smpboot.c, hlt_play_dead). An INIT or SIPI that is pending is taken first.
Result<bool> IsOff(const kvm::Vcpu& vcpu);

// "rip=… rsp=… cr0=…", or why it cannot be had.
std::string DescribeRegisters(const kvm::Vcpu& vcpu);

}  // namespace wyvern::arch
