// arch/x86_64/layout.h — guest-visible addresses, ports and interrupt numbers.
// Shape:   0 .. 640 KiB RAM (boot data at 64 KiB) · 896 KiB .. 1 MiB ACPI tables · 1 MiB .. 3 GiB RAM · 3 .. 3.5 GiB 32-bit PCI window ·
//          3.5 GiB ECAM · below 4 GiB the chip area · 4 GiB .. RAM · then pmem · then the 64-bit PCI window.
#pragma once

#include <cstdint>

namespace wyvern::arch {

constexpr uint64_t kKiB = 1ULL << 10U;
constexpr uint64_t kMiB = 1ULL << 20U;
constexpr uint64_t kGiB = 1ULL << 30U;

// Below 1 MiB.
constexpr uint64_t kStartInfoAddress =
    64 * kKiB;  // start info, memory map, command line: at most kStartInfoSize
constexpr uint64_t kStartInfoSize = 64 * kKiB;
constexpr uint64_t kLowRamEnd = 640 * kKiB;
constexpr uint64_t kAcpiAddress = 896 * kKiB;
constexpr uint64_t kAcpiSize = 128 * kKiB;
constexpr uint64_t kKernelLowest = kMiB;

// The hole below 4 GiB.
constexpr uint64_t kHoleStart = 3 * kGiB;
constexpr uint64_t kPci32Start = 0xc0000000;
constexpr uint64_t kPci32Size = 0x20000000;
constexpr uint64_t kEcamStart = 0xe0000000;
constexpr uint8_t kPciBuses = 32;                 // bus 0, and more than there are root ports
constexpr uint64_t kEcamSize = kPciBuses * kMiB;  // PCI Express 5.0 §7.2.2: 1 MiB per bus
constexpr uint64_t kIoApicAddress = 0xfec00000;
constexpr uint64_t kLocalApicAddress = 0xfee00000;
constexpr uint64_t kIdentityMapAddress = 0xfffbc000;  // one page, KVM_SET_IDENTITY_MAP_ADDR
constexpr uint64_t kTssAddress = 0xfffbd000;          // three pages, KVM_SET_TSS_ADDR
constexpr uint64_t kHoleEnd = 4 * kGiB;

// Above: aligned to kHighAlignment.
constexpr uint64_t kHighAlignment = kGiB;
constexpr uint64_t kPmemWindowSize = 16 * kGiB;
constexpr uint64_t kPci64MaxSize = 64 * kGiB;
constexpr uint64_t kPci64MinSize = kGiB;

// Ports.
constexpr uint16_t kSerialPort = 0x3f8;
constexpr uint16_t kPvPanicPort = 0x505;
constexpr uint16_t kPowerPort = 0x600;
constexpr uint16_t kPciConfigPort = 0xcf8;  // eight ports

// Interrupts.
constexpr uint8_t kSerialIrq = 4;     // ISA irq = I/O APIC pin = GSI
constexpr uint32_t kFirstMsiGsi = 8;  // behind the pins
constexpr uint32_t kMsiRoutes = 1024;

}  // namespace wyvern::arch
