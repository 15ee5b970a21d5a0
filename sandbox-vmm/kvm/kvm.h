// kvm/kvm.h — a donated /dev/kvm: version, capabilities, machines.
// Spec:    Linux Documentation/virt/kvm/api.rst.
// Errors:  FAILED_PRECONDITION names the missing capability; other errors carry the errno of the ioctl.
// Threads: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "base/error.h"
#include "base/fd.h"
#include "kvm/vm.h"

namespace wyvern::kvm {

struct Capability {
  int number = 0;
  const char* name = "";
};

class Kvm {
 public:
  // Takes an open /dev/kvm. Checks the API version (12) and what every architecture needs.
  static Result<Kvm> Create(UniqueFd device);

  // 0: not there; otherwise the capability's value.
  int CheckExtension(int capability) const;
  // FAILED_PRECONDITION naming the first one that is missing.
  Result<> Require(std::initializer_list<Capability> capabilities) const;

  // Can take tens of milliseconds on a host that starts a helper thread per machine.
  Result<Vm> CreateVm() const;

  // Bytes to map of a vCPU fd.
  size_t vcpu_mapping_size() const { return vcpu_mapping_size_; }

  FdRef fd() const { return device_; }

 private:
  Kvm(UniqueFd device, size_t size) : device_(std::move(device)), vcpu_mapping_size_(size) {}

  UniqueFd device_;
  size_t vcpu_mapping_size_;
};

}  // namespace wyvern::kvm
