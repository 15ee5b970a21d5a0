#include "kvm/kvm.h"

#include <linux/kvm.h>

#include <utility>

#include <fmt/format.h>

#include "kvm/ioctl.h"

namespace wyvern::kvm {

Result<Kvm> Kvm::Create(UniqueFd device) {
  const int version = RetryIoctl(device, KVM_GET_API_VERSION, 0UL);
  if (version < 0) {
    return SysError("this file descriptor is not /dev/kvm: ioctl(KVM_GET_API_VERSION)");
  }
  if (version != KVM_API_VERSION) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("this kernel's KVM has API version {}, Wyvern needs {}", version,
                            KVM_API_VERSION));
  }
  const int size = RetryIoctl(device, KVM_GET_VCPU_MMAP_SIZE, 0UL);
  if (size < static_cast<int>(sizeof(kvm_run))) {
    return SysError("ioctl(KVM_GET_VCPU_MMAP_SIZE)");
  }
  Kvm kvm(std::move(device), static_cast<size_t>(size));
  WV_TRY_VOID(kvm.Require({
      {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
      {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
      {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
      {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
      {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
      {KVM_CAP_IOEVENTFD_ANY_LENGTH, "KVM_CAP_IOEVENTFD_ANY_LENGTH"},
      {KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM"},
      {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
  }));
  return kvm;
}

int Kvm::CheckExtension(int capability) const {
  const int value =
      RetryIoctl(device_, KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability));
  return value < 0 ? 0 : value;
}

Result<> Kvm::Require(std::initializer_list<Capability> capabilities) const {
  for (const Capability& capability : capabilities) {
    if (CheckExtension(capability.number) == 0) {
      return Fail(Code::kFailedPrecondition,
                  fmt::format("this host's KVM lacks {}; Wyvern needs Linux 6.1 or newer",
                              capability.name));
    }
  }
  return {};
}

Result<Vm> Kvm::CreateVm() const {
  const int fd = RetryIoctl(device_, KVM_CREATE_VM, 0UL);
  if (fd < 0) {
    return SysError("ioctl(KVM_CREATE_VM)");
  }
  return Vm(UniqueFd(fd), vcpu_mapping_size_, CheckExtension(KVM_CAP_NR_MEMSLOTS));
}

}  // namespace wyvern::kvm
