// arch/address_plan.h — where RAM, persistent memory and PCI windows lie in a guest's physical address space.
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"

namespace wyvern::arch {

struct AddressRange {
  uint64_t start = 0;
  uint64_t size = 0;

  uint64_t end() const { return start + size; }
};

struct AddressPlan {
  std::vector<AddressRange> ram;  // ascending, 2 MiB aligned
  AddressRange pmem;              // window for read-only slots
  AddressRange hotplug;           // window for memory that comes and goes (virtio-mem)
  AddressRange pci32;
  AddressRange pci64;  // size 0: the CPU has too few address bits
  AddressRange ecam;
  uint8_t pci_buses = 0;
};

// `ram` in bytes: a multiple of 2 MiB, at least 32 MiB. `hotplug`: bytes that may be plugged later, a multiple of 2 MiB, or 0. `physical_bits`:
// of the guest's CPUs. INVALID_ARGUMENT, or OUT_OF_RANGE when memory does not fit below 2^physical_bits.
Result<AddressPlan> PlanAddresses(uint64_t ram, uint64_t hotplug, unsigned physical_bits);

}  // namespace wyvern::arch
