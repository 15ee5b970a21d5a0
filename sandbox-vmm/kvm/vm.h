// kvm/vm.h — a KVM machine: memslots, interrupt plumbing, vCPUs.
// Spec:    Linux Documentation/virt/kvm/api.rst.
// Errors:  the errno of the ioctl, with what it was for.
// Threads: any; KVM serialises what it must.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/error.h"
#include "base/event_fd.h"
#include "base/fd.h"
#include "kvm/vcpu.h"
#include "mem/guest_memory.h"

namespace wyvern::kvm {

class Vm {
 public:
  Vm(UniqueFd vm, size_t vcpu_mapping_size, int memslots)
      : vm_(std::move(vm)), vcpu_mapping_size_(vcpu_mapping_size), memslots_(memslots) {}

  // One memslot for one region of guest memory. The mapping must stay until the memslot is removed or
  // the Vm is closed.
  Result<> SetMemslot(uint32_t slot, const mem::RegionInfo& region) const;
  // From now on the guest's accesses there are MMIO exits. Waits until no vCPU uses it any more.
  Result<> RemoveMemslot(uint32_t slot) const;

  int memslots() const { return memslots_; }

  // `id`: what KVM_CREATE_VCPU takes (x86: the APIC id).
  Result<Vcpu> CreateVcpu(uint32_t id) const;

  // KVM_ENABLE_CAP with up to one argument.
  Result<> EnableCapability(int capability, uint64_t argument, const char* name) const;

  // Signals of `event` inject `gsi`. `on` false undoes it.
  Result<> SetIrqfd(const EventFd& event, uint32_t gsi, bool on) const;
  // A guest write of `length` bytes to `address` signals `event`.
  Result<> SetIoeventfd(const EventFd& event, uint64_t address, uint32_t length,
                        std::optional<uint64_t> match, bool on) const;

  // Any other ioctl on the machine; `name` for the error.
  Result<> Call(unsigned long request, const void* argument, const char* name) const;
  Result<> CallValue(unsigned long request, unsigned long argument, const char* name) const;

  FdRef fd() const { return vm_; }

 private:
  UniqueFd vm_;
  size_t vcpu_mapping_size_;
  int memslots_;
};

}  // namespace wyvern::kvm
