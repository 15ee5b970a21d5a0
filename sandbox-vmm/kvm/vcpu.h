// kvm/vcpu.h — one vCPU: KVM_RUN, the exit it returned, and register access.
// Spec:    Linux Documentation/virt/kvm/api.rst (KVM_RUN, struct kvm_run).
// Errors:  Run() fails only when KVM itself does; what the guest did is an Exit.
// Threads: Run and register access from the vCPU's own thread; RequestExit from any.
// Trust:   addresses and data in an Exit are the guest's; sizes were bounded here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/error.h"
#include "base/fd.h"
#include "base/mapping.h"

struct kvm_run;

namespace wyvern::kvm {

enum class ExitReason : uint8_t {
  kInterrupted,  // a signal or RequestExit
  kPortRead,     // `data` is to be filled, `count` items of `size` bytes
  kPortWrite,
  kMmioRead,  // `data` is to be filled
  kMmioWrite,
  kHalt,
  kShutdown,        // triple fault
  kSystemEvent,     // `code`: KVM_SYSTEM_EVENT_*
  kEndOfInterrupt,  // `code`: the vector (x86 split irqchip)
  kFailEntry,       // `code`: the hardware's reason
  kInternalError,   // `code`: KVM_INTERNAL_ERROR_*
  kMemoryFault,     // the host has nothing behind an address of a memslot; the access was not made
  kOther,           // `code`: KVM_EXIT_*
};

constexpr size_t kExitReasons = static_cast<size_t>(ExitReason::kOther) + 1;

const char* ExitReasonName(ExitReason reason);

struct Exit {
  ExitReason reason = ExitReason::kOther;
  uint64_t address = 0;  // port or guest physical address
  uint32_t size = 0;     // bytes per item
  uint32_t count = 0;    // items (string port I/O), 1 for MMIO
  std::span<std::byte>
      data;  // inside the shared page: size * count bytes, valid until the next Run
  uint64_t code = 0;
};

class Vcpu {
 public:
  static Result<Vcpu> Create(UniqueFd vcpu, uint32_t id, size_t mapping_size);

  // Enters the guest. Completes the port or MMIO read of the previous exit first.
  Result<Exit> Run();

  // Makes the current or next Run return kInterrupted; to get out of a Run in progress also send its thread a signal. Cleared by
  // ClearExitRequest. Any thread.
  void RequestExit() const;
  void ClearExitRequest() const;

  // Tells a guest with a paravirtual clock that it was stopped, so that its watchdogs do not bark. The vCPU's own thread.
  void TellPaused() const;

  // KVM_GET_*/KVM_SET_* on the vCPU.
  template <typename T>
  Result<> Get(unsigned long request, T* value, const char* name) const {
    return Call(request, value, name);
  }

  template <typename T>
  Result<> Set(unsigned long request, const T& value, const char* name) const {
    return Call(request, &value, name);
  }

  Result<> Call(unsigned long request, const void* argument, const char* name) const;

  uint32_t id() const { return id_; }

  FdRef fd() const { return vcpu_; }

 private:
  Vcpu(UniqueFd vcpu, uint32_t id, Mapping mapping)
      : vcpu_(std::move(vcpu)), id_(id), mapping_(std::move(mapping)) {}

  kvm_run* run() const { return reinterpret_cast<kvm_run*>(mapping_.data()); }

  Exit Decode() const;
  Exit DecodePort() const;

  UniqueFd vcpu_;
  uint32_t id_;
  Mapping mapping_;
};

}  // namespace wyvern::kvm
