// acpi/aml.h — just enough AML to describe fixed hardware: names, devices, packages, resource templates.
// Spec:    ACPI 6.5 §20 (AML), §6.4 (resource data types).
// Shape:   every function returns the bytes of one term; terms are concatenated.
// Errors:  WV_CHECK for misuse by us; nothing here comes from a guest.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace wyvern::acpi {

using Bytes = std::vector<uint8_t>;

Bytes Concat(std::initializer_list<Bytes> parts);

template <typename T>
void AppendLe(Bytes* out, T value) {
  for (unsigned i = 0; i < sizeof(T); ++i) {
    out->push_back(static_cast<uint8_t>(static_cast<uint64_t>(value) >> (8U * i)));
  }
}

// --- Data objects ---
// The shortest encoding of a number.
Bytes Integer(uint64_t value);
Bytes String(std::string_view text);
// "PNP0A08" as the 32-bit number of _HID and _CID.
Bytes EisaId(std::string_view id);
Bytes Package(std::initializer_list<Bytes> elements);

// --- Named objects ---
// `path`: an optional leading '\' and up to two 4-character segments separated by '.', short ones padded with '_'.
Bytes Name(std::string_view path, const Bytes& value);
Bytes Scope(std::string_view path, std::initializer_list<Bytes> terms);
Bytes Device(std::string_view path, std::initializer_list<Bytes> terms);

// --- Resource templates (ACPI 6.5 §6.4) ---
// A buffer of the descriptors given, with its end tag.
Bytes ResourceTemplate(std::initializer_list<Bytes> descriptors);
// Ports [start, start + length), decoded with 16 bits.
Bytes IoPorts(uint16_t start, uint8_t length);
// An edge-triggered, active-high, exclusive ISA interrupt.
Bytes IsaInterrupt(uint8_t irq);
Bytes Memory32(uint32_t start, uint32_t length);
// What a bridge passes on (producer, fixed): bus numbers and memory windows, [start, start + length).
Bytes BusNumbers(uint8_t first, uint16_t count);
Bytes MemoryWindow32(uint32_t start, uint32_t length);
Bytes MemoryWindow64(uint64_t start, uint64_t length);

}  // namespace wyvern::acpi
