#include "kvm/vcpu.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "kvm/ioctl.h"

namespace wyvern::kvm {

namespace {

Exit Plain(ExitReason reason, uint64_t code = 0) {
  Exit exit;
  exit.reason = reason;
  exit.code = code;
  return exit;
}

}  // namespace

const char* ExitReasonName(ExitReason reason) {
  static constexpr const char* kNames[kExitReasons] = {
      "interrupted",    "port_read",    "port_write", "mmio_read",        "mmio_write",
      "halt",           "shutdown",     "system",     "end_of_interrupt", "fail_entry",
      "internal_error", "memory_fault", "other"};
  const auto index = static_cast<size_t>(reason);
  return index < kExitReasons ? kNames[index] : "?";
}

Result<Vcpu> Vcpu::Create(UniqueFd vcpu, uint32_t id, size_t mapping_size) {
  WV_TRY_CONTEXT(auto mapping,
                 Mapping::Create(mapping_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu),
                 fmt::format("mapping vCPU {}", id));
  return Vcpu(std::move(vcpu), id, std::move(mapping));
}

Result<Exit> Vcpu::Run() {
  if (::ioctl(vcpu_.get(), KVM_RUN, 0) < 0) {
    if (errno == EINTR || errno == EAGAIN) {
      return Plain(ExitReason::kInterrupted);
    }
    if (errno == EFAULT) {
      return Plain(ExitReason::kMemoryFault);
    }
    return SysError(fmt::format("ioctl(KVM_RUN) vCPU {}", id_));
  }
  return Decode();
}

Exit Vcpu::DecodePort() const {
  const kvm_run* r = run();
  const uint64_t bytes = uint64_t{r->io.size} * r->io.count;
  // The kernel wrote these; a wrong offset would be memory corruption, not guest behaviour.
  WV_CHECK(mapping_.Contains(r->io.data_offset, bytes));
  return Exit{
      .reason = r->io.direction == KVM_EXIT_IO_IN ? ExitReason::kPortRead : ExitReason::kPortWrite,
      .address = r->io.port,
      .size = r->io.size,
      .count = r->io.count,
      .data = std::span(mapping_.data() + r->io.data_offset, bytes),
      .code = 0};
}

Exit Vcpu::Decode() const {
  kvm_run* r = run();
  switch (r->exit_reason) {
    case KVM_EXIT_IO:
      return DecodePort();
    case KVM_EXIT_MMIO: {
      const uint32_t size = r->mmio.len <= sizeof(r->mmio.data) ? r->mmio.len : 0;
      return Exit{.reason = r->mmio.is_write != 0 ? ExitReason::kMmioWrite : ExitReason::kMmioRead,
                  .address = r->mmio.phys_addr,
                  .size = size,
                  .count = 1,
                  .data = std::as_writable_bytes(std::span(r->mmio.data).first(size)),
                  .code = 0};
    }
    case KVM_EXIT_HLT:
      return Plain(ExitReason::kHalt);
    case KVM_EXIT_SHUTDOWN:
      return Plain(ExitReason::kShutdown);
    case KVM_EXIT_SYSTEM_EVENT:
      return Plain(ExitReason::kSystemEvent, r->system_event.type);
    case KVM_EXIT_IOAPIC_EOI:
      return Plain(ExitReason::kEndOfInterrupt, r->eoi.vector);
    case KVM_EXIT_FAIL_ENTRY:
      return Plain(ExitReason::kFailEntry, r->fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_INTERNAL_ERROR:
      return Plain(ExitReason::kInternalError, r->internal.suberror);
    case KVM_EXIT_INTR:
      return Plain(ExitReason::kInterrupted);
    default:
      return Plain(ExitReason::kOther, r->exit_reason);
  }
}

void Vcpu::RequestExit() const {
  std::atomic_ref<uint8_t>(run()->immediate_exit).store(1, std::memory_order_release);
}

void Vcpu::ClearExitRequest() const {
  std::atomic_ref<uint8_t>(run()->immediate_exit).store(0, std::memory_order_release);
}

void Vcpu::TellPaused() const {
  // EINVAL: the guest has no such clock.
  (void)RetryIoctl(vcpu_, KVM_KVMCLOCK_CTRL, 0UL);
}

Result<> Vcpu::Call(unsigned long request, const void* argument, const char* name) const {
  if (RetryIoctl(vcpu_, request, argument) < 0) {
    return SysError(fmt::format("{} vCPU {}", name, id_));
  }
  return {};
}

}  // namespace wyvern::kvm
