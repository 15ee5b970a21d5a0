#include "kvm/probe_guest.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"
#include "kvm/ioctl.h"

namespace wyvern::kvm {

namespace {

constexpr uint64_t kPml4 = 0x1000;
constexpr uint64_t kPdpt = 0x2000;
constexpr uint64_t kPageDirectory = 0x3000;
constexpr uint64_t kCode = 0x4000;
constexpr uint64_t kPresentWritable = 3;
constexpr uint64_t kLargePage = 0x80;

constexpr uint64_t kCr0 = 0x80000011;  // paging, extension type, protected mode
constexpr uint64_t kCr4 = 0x20;        // physical address extension
constexpr uint64_t kEfer = 0x500;      // long mode, enabled and active

constexpr uint32_t kCpuidPae = 1U << 6U;        // leaf 1, edx
constexpr uint32_t kCpuidLongMode = 1U << 29U;  // leaf 0x80000001, edx

// Linux refuses an EFER that the guest's CPUID does not have (6.12.117 of Debian 13 does, 6.12.107 did not).
Result<> SetProbeCpuid(FdRef vcpu) {
  struct : CountedHeader {
    std::array<kvm_cpuid_entry2, 4> leaves{};
  } cpuid;

  cpuid.count = cpuid.leaves.size();
  cpuid.leaves[0].eax = 1;  // the last one
  cpuid.leaves[1].function = 1;
  cpuid.leaves[1].edx = kCpuidPae;
  cpuid.leaves[2].function = 0x80000000;
  cpuid.leaves[2].eax = 0x80000001;  // the last one of these
  cpuid.leaves[3].function = 0x80000001;
  cpuid.leaves[3].edx = kCpuidLongMode;
  constexpr unsigned long kSetCpuid = _IOW(KVMIO, 0x90, CountedHeader);  // KVM API 4.20
  return RetryIoctl(vcpu, kSetCpuid, &cpuid) < 0 ? SysError("ioctl(KVM_SET_CPUID2)") : Result<>();
}

kvm_segment Segment(uint8_t type, uint16_t selector, bool long_mode) {
  kvm_segment segment{};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.db = long_mode ? 0 : 1;
  segment.l = long_mode ? 1 : 0;
  segment.s = 1;
  segment.g = 1;
  return segment;
}

void Store(std::span<std::byte> memory, uint64_t at, uint64_t value) {
  std::memcpy(memory.subspan(at, sizeof(value)).data(), &value, sizeof(value));
}

}  // namespace

void RunProbeLoop() {
  uint32_t count = kProbeIterations;
  asm volatile(
      "1: dec %0\n"
      "   jnz 1b\n"
      : "+r"(count)
      :
      : "cc");
}

void WriteProbeGuest(std::span<std::byte> memory) {
  WV_CHECK(memory.size() >= kProbeMemory);
  Store(memory, kPml4, kPdpt | kPresentWritable);
  Store(memory, kPdpt, kPageDirectory | kPresentWritable);
  Store(memory, kPageDirectory, kLargePage | kPresentWritable);
  std::array<uint8_t, 13> code = {
      0xb9, 0,    0, 0, 0,  // start: mov ecx, kProbeIterations
      0xff, 0xc9,           // 1: dec ecx
      0x75, 0xfc,           // jnz 1b
      0xe6, 0x10,           // out 0x10, al
      0xeb, 0xf3,           // jmp start
  };
  const uint32_t iterations = kProbeIterations;
  std::memcpy(code.data() + 1, &iterations, sizeof(iterations));
  std::memcpy(memory.subspan(kCode, code.size()).data(), code.data(), code.size());
}

Result<> SetProbeRegisters(FdRef vcpu) {
  WV_TRY_VOID(SetProbeCpuid(vcpu));
  kvm_sregs sregs{};
  if (::ioctl(vcpu.get(), KVM_GET_SREGS, &sregs) < 0) {
    return SysError("ioctl(KVM_GET_SREGS)");
  }
  sregs.cs = Segment(0xb, 0x08, true);
  sregs.ds = Segment(0x3, 0x10, false);
  sregs.es = sregs.ds;
  sregs.fs = sregs.ds;
  sregs.gs = sregs.ds;
  sregs.ss = sregs.ds;
  sregs.cr0 = kCr0;
  sregs.cr3 = kPml4;
  sregs.cr4 = kCr4;
  sregs.efer = kEfer;
  if (::ioctl(vcpu.get(), KVM_SET_SREGS, &sregs) < 0) {
    return SysError("ioctl(KVM_SET_SREGS)");
  }
  kvm_regs regs{};
  regs.rip = kCode;
  regs.rflags = 2;
  if (::ioctl(vcpu.get(), KVM_SET_REGS, &regs) < 0) {
    return SysError("ioctl(KVM_SET_REGS)");
  }
  return {};
}

}  // namespace wyvern::kvm
