#include "arch/x86_64/vcpu_setup.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "kvm/ioctl.h"

namespace wyvern::arch {

namespace {

constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, kvm::CountedHeader);
constexpr unsigned long kSetCpuid = _IOW(KVMIO, 0x90, kvm::CountedHeader);
constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, kvm::CountedHeader);

constexpr uint32_t kMaxCpuidEntries = 256;

constexpr uint32_t kMsrMiscEnable = 0x1a0;
constexpr uint64_t kMiscEnableFastString = 1;
constexpr uint32_t kMsrMtrrDefType = 0x2ff;
constexpr uint64_t kMtrrEnabledWriteBack = 1U << 11U | 6U;

constexpr uint64_t kCr0ProtectedMode = 1;
constexpr uint64_t kRflagsInterrupts = 1U << 9U;

kvm_segment FlatSegment(uint8_t type, uint16_t selector) {
  kvm_segment segment{};
  segment.base = 0;
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.db = 1;
  segment.s = 1;
  segment.g = 1;
  return segment;
}

// struct kvm_cpuid2 and struct kvm_msrs: a count, padding, then an array.
template <typename Entry, size_t kEntries>
struct CountedArray : kvm::CountedHeader {
  std::array<Entry, kEntries> entries{};
};

static_assert(sizeof(CountedArray<kvm_cpuid_entry2, 1>) == 8 + 40 &&
              sizeof(CountedArray<kvm_msr_entry, 1>) == 8 + 16);

}  // namespace

Result<std::vector<kvm_cpuid_entry2>> SupportedCpuid(const kvm::Kvm& kvm) {
  CountedArray<kvm_cpuid_entry2, kMaxCpuidEntries> block;
  block.count = kMaxCpuidEntries;
  if (kvm::RetryIoctl(kvm.fd(), kGetSupportedCpuid, &block) < 0) {
    return SysError("ioctl(KVM_GET_SUPPORTED_CPUID)");
  }
  return std::vector(block.entries.begin(), block.entries.begin() + block.count);
}

Result<> SetUpCpu(const kvm::Vcpu& vcpu, std::span<const kvm_cpuid_entry2> supported,
                  const CpuIdentity& cpu) {
  const std::vector<kvm_cpuid_entry2> entries = GuestCpuid(supported, cpu);
  CountedArray<kvm_cpuid_entry2, kMaxCpuidEntries> cpuid;
  if (entries.size() > kMaxCpuidEntries) {
    return Fail(Code::kInternal, fmt::format("too many CPUID leaves: {}", entries.size()));
  }
  cpuid.count = static_cast<uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), cpuid.entries.begin());
  WV_TRY_VOID(vcpu.Call(kSetCpuid, &cpuid, "ioctl(KVM_SET_CPUID2)"));

  CountedArray<kvm_msr_entry, 2> msrs;
  msrs.count = 2;
  msrs.entries[0].index = kMsrMiscEnable;
  msrs.entries[0].data = kMiscEnableFastString;
  msrs.entries[1].index = kMsrMtrrDefType;
  msrs.entries[1].data = kMtrrEnabledWriteBack;
  return vcpu.Call(kSetMsrs, &msrs, "ioctl(KVM_SET_MSRS)");
}

Result<> SetPvhEntry(const kvm::Vcpu& vcpu, uint32_t entry, uint32_t start_info) {
  kvm_sregs sregs{};
  WV_TRY_VOID(vcpu.Get(KVM_GET_SREGS, &sregs, "ioctl(KVM_GET_SREGS)"));
  sregs.cs = FlatSegment(0xb, 0x08);  // execute, read, accessed
  sregs.ds = FlatSegment(0x3, 0x10);  // read, write, accessed
  sregs.es = sregs.ds;
  sregs.fs = sregs.ds;
  sregs.gs = sregs.ds;
  sregs.ss = sregs.ds;
  sregs.tr = kvm_segment{};
  sregs.tr.limit = 0x67;
  sregs.tr.type = 0xb;  // busy 32-bit TSS
  sregs.tr.present = 1;
  sregs.cr0 = (sregs.cr0 | kCr0ProtectedMode) & 0x7fffffffU;
  sregs.cr4 = 0;
  sregs.efer = 0;
  WV_TRY_VOID(vcpu.Set(KVM_SET_SREGS, sregs, "ioctl(KVM_SET_SREGS)"));
  kvm_regs regs{};
  regs.rip = entry;
  regs.rbx = start_info;
  regs.rflags = 2;  // bit 1 is always set
  return vcpu.Set(KVM_SET_REGS, regs, "ioctl(KVM_SET_REGS)");
}

Result<bool> IsOff(const kvm::Vcpu& vcpu) {
  kvm_mp_state state{};
  WV_TRY_VOID(vcpu.Get(KVM_GET_MP_STATE, &state, "ioctl(KVM_GET_MP_STATE)"));
  if (state.mp_state != KVM_MP_STATE_HALTED) {
    return state.mp_state == KVM_MP_STATE_UNINITIALIZED ||
           state.mp_state == KVM_MP_STATE_INIT_RECEIVED;
  }
  kvm_regs regs{};
  WV_TRY_VOID(vcpu.Get(KVM_GET_REGS, &regs, "ioctl(KVM_GET_REGS)"));
  return (regs.rflags & kRflagsInterrupts) == 0;
}

std::string DescribeRegisters(const kvm::Vcpu& vcpu) {
  kvm_regs regs{};
  kvm_sregs sregs{};
  if (!vcpu.Get(KVM_GET_REGS, &regs, "ioctl(KVM_GET_REGS)") ||
      !vcpu.Get(KVM_GET_SREGS, &sregs, "ioctl(KVM_GET_SREGS)")) {
    return "registers cannot be read";
  }
  return fmt::format(
      "rip={:#x} rflags={:#x} rsp={:#x} rbp={:#x} rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x} "
      "rsi={:#x} rdi={:#x} r8={:#x} r9={:#x} r10={:#x} r11={:#x} r12={:#x} r13={:#x} r14={:#x} "
      "r15={:#x} cs={:#x} cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x}",
      regs.rip, regs.rflags, regs.rsp, regs.rbp, regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi,
      regs.rdi, regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
      sregs.cs.selector, sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer);
}

}  // namespace wyvern::arch
