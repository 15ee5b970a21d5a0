// acpi/tables.h — the ACPI tables of a machine without firmware, as one block of bytes for guest memory.
// Spec:    ACPI 6.5 §5.2 (RSDP, XSDT, FADT, MADT, DSDT), PCI Firmware 3.3 §4.1.2 (MCFG).
// Shape:   hardware-reduced: no SMI, no fixed timers, no PIC. Sleep and reset are plain registers.
// Trust:   input is ours.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "acpi/aml.h"

namespace wyvern::acpi {

struct CpuEntry {
  uint32_t apic_id = 0;
  bool enabled = true;  // false: may be brought online later (online capable)
};

struct PciHost {
  uint64_t ecam = 0;
  uint8_t buses = 1;  // bus 0 .. buses - 1
  uint32_t window32_start = 0;
  uint32_t window32_size = 0;
  uint64_t window64_start = 0;
  uint64_t window64_size = 0;  // 0: none
};

struct PortPlan {
  uint16_t power = 0;   // sleep control, sleep status, reset: three ports
  uint16_t serial = 0;  // eight ports
  uint8_t serial_irq = 0;
  uint16_t pvpanic = 0;  // one port
};

struct MachineDescription {
  std::vector<CpuEntry> cpus;
  uint32_t local_apic = 0;
  uint32_t io_apic = 0;
  PciHost pci;
  PortPlan ports;
};

constexpr uint8_t kSleepTypeS5 = 5;  // SLP_TYP that the guest writes to power off
constexpr uint8_t kSleepEnable = 0x20;
constexpr uint8_t kResetValue = 1;

struct TableBlock {
  Bytes bytes;
  uint64_t rsdp = 0;  // guest address
};

// The tables, to be put at `address` (64-aligned, below 4 GiB).
TableBlock BuildTables(const MachineDescription& machine, uint64_t address);

// One table with header and checksum: for tests and for tables made elsewhere.
Bytes BuildTable(std::string_view signature, uint8_t revision, const Bytes& body);
Bytes BuildDsdt(const MachineDescription& machine);
Bytes BuildMadt(const MachineDescription& machine);
Bytes BuildMcfg(const PciHost& pci);
Bytes BuildFadt(const MachineDescription& machine, uint64_t dsdt);

}  // namespace wyvern::acpi
