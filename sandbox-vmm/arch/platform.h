// arch/platform.h — what an architecture adds to a machine: interrupt controller, console and power devices, boot protocol, vCPU state.
// Shape:   each arch/<name>/ implements this header; nothing else in the VMM knows the architecture.
// Threads: Create, LoadGuest and SetUpVcpu before vCPUs run; registers and IsVcpuOff from the vCPU's own; the rest from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "arch/address_plan.h"
#include "base/error.h"
#include "base/fd.h"
#include "bus/bus.h"
#include "irq/interrupts.h"
#include "kvm/kvm.h"
#include "legacy/power.h"
#include "mem/guest_memory.h"

namespace wyvern::arch {

// What the guest's CPUs can address. Reads KVM's capabilities.
Result<unsigned> GuestPhysicalBits(const kvm::Kvm& kvm);

struct PlatformConfig {
  const kvm::Kvm* kvm = nullptr;  // this and the next three outlive the platform
  const kvm::Vm* vm = nullptr;
  bus::Bus* mmio = nullptr;
  bus::Bus* ports = nullptr;  // x86 only
  uint32_t vcpus = 1;         // that the guest may ever have
  AddressPlan plan;
  // vCPU threads; must not block.
  std::function<void(std::span<const std::byte>)> console;
  std::function<void(legacy::GuestRequest)> on_request;
};

struct GuestImage {
  FdRef kernel{-1};
  FdRef initrd{-1};  // invalid: none
  std::string command_line;
};

class Platform {
 public:
  // Makes the interrupt controller (before any vCPU exists) and puts the platform's devices on the buses.
  static Result<std::unique_ptr<Platform>> Create(PlatformConfig config);
  virtual ~Platform() = default;

  virtual irq::MsiRouter& msi_router() = 0;
  virtual irq::DoorbellRegistry& doorbells() = 0;
  // PCI configuration access beside ECAM; `ports` is the port pair's device.
  virtual Result<> AttachPciConfigPorts(std::shared_ptr<bus::BusDevice> ports) = 0;

  // Writes kernel, initrd, tables and command line to guest memory, which must be all zero.
  virtual Result<> LoadGuest(const mem::GuestMemory& memory, const GuestImage& image) = 0;
  // After LoadGuest; `index` 0 is the boot CPU.
  virtual Result<> SetUpVcpu(const kvm::Vcpu& vcpu, uint32_t index) = 0;

  // The guest has taken it off line, or never started it: it executes nothing until another vCPU starts it.
  virtual Result<bool> IsVcpuOff(const kvm::Vcpu& vcpu) const = 0;

  // KVM's answer when the guest finished a level-triggered interrupt.
  virtual void EndOfInterrupt(uint8_t vector) = 0;
  // Bytes typed at the console; returns how many were taken.
  virtual size_t ConsoleInput(std::span<const std::byte> bytes) = 0;
  // For fault messages.
  virtual std::string DescribeRegisters(const kvm::Vcpu& vcpu) const = 0;
};

}  // namespace wyvern::arch
