#include "kvm/vm.h"

#include <linux/kvm.h>

#include <utility>

#include <fmt/format.h>

#include "kvm/ioctl.h"

namespace wyvern::kvm {

Result<> Vm::SetMemslot(uint32_t slot, const mem::RegionInfo& region) const {
  kvm_userspace_memory_region request{};
  request.slot = slot;
  request.flags = region.read_only ? KVM_MEM_READONLY : 0;
  request.guest_phys_addr = mem::Raw(region.start);
  request.memory_size = region.size;
  request.userspace_addr = region.host_address;
  if (RetryIoctl(vm_, KVM_SET_USER_MEMORY_REGION, &request) < 0) {
    return SysError(fmt::format("ioctl(KVM_SET_USER_MEMORY_REGION) slot {} at {:#x}+{:#x}", slot,
                                request.guest_phys_addr, request.memory_size));
  }
  return {};
}

Result<> Vm::RemoveMemslot(uint32_t slot) const {
  kvm_userspace_memory_region request{};
  request.slot = slot;
  if (RetryIoctl(vm_, KVM_SET_USER_MEMORY_REGION, &request) < 0) {
    return SysError(fmt::format("ioctl(KVM_SET_USER_MEMORY_REGION) removing slot {}", slot));
  }
  return {};
}

Result<Vcpu> Vm::CreateVcpu(uint32_t id) const {
  const int fd = RetryIoctl(vm_, KVM_CREATE_VCPU, static_cast<unsigned long>(id));
  if (fd < 0) {
    return SysError(fmt::format("ioctl(KVM_CREATE_VCPU) {}", id));
  }
  return Vcpu::Create(UniqueFd(fd), id, vcpu_mapping_size_);
}

Result<> Vm::EnableCapability(int capability, uint64_t argument, const char* name) const {
  kvm_enable_cap request{};
  request.cap = static_cast<uint32_t>(capability);
  request.args[0] = argument;
  return Call(KVM_ENABLE_CAP, &request, name);
}

Result<> Vm::SetIrqfd(const EventFd& event, uint32_t gsi, bool on) const {
  kvm_irqfd request{};
  request.fd = static_cast<uint32_t>(event.fd().get());
  request.gsi = gsi;
  request.flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN;
  return Call(KVM_IRQFD, &request, "ioctl(KVM_IRQFD)");
}

Result<> Vm::SetIoeventfd(const EventFd& event, uint64_t address, uint32_t length,
                          std::optional<uint64_t> match, bool on) const {
  kvm_ioeventfd request{};
  request.datamatch = match.value_or(0);
  request.addr = address;
  request.len = length;
  request.fd = event.fd().get();
  request.flags = (match ? uint32_t{KVM_IOEVENTFD_FLAG_DATAMATCH} : 0U) |
                  (on ? 0U : uint32_t{KVM_IOEVENTFD_FLAG_DEASSIGN});
  return Call(KVM_IOEVENTFD, &request, "ioctl(KVM_IOEVENTFD)");
}

Result<> Vm::Call(unsigned long request, const void* argument, const char* name) const {
  if (RetryIoctl(vm_, request, argument) < 0) {
    return SysError(name);
  }
  return {};
}

Result<> Vm::CallValue(unsigned long request, unsigned long argument, const char* name) const {
  if (RetryIoctl(vm_, request, argument) < 0) {
    return SysError(name);
  }
  return {};
}

}  // namespace wyvern::kvm
