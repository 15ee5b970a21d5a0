// pci/config_space.h — the 256 bytes of a configuration header of type 0 (of type 1: root_port.h), with the bits the guest may
// change.
// Spec:    PCI Local Bus 3.0 §6.1, §6.2.5 (BAR sizing), §6.7 (capability list).
// Shape:   bytes and a write mask of the same size; whatever is not in the mask ignores writes.
// Threads: none of its own; Function guards it.   Trust: offsets are checked by the caller
//          (Function); data is the guest's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/endian.h"

namespace wyvern::pci {

// Offsets in the header.
inline constexpr uint16_t kCommand = 0x04;
inline constexpr uint16_t kStatus = 0x06;
inline constexpr uint16_t kBar0 = 0x10;
inline constexpr uint16_t kCapabilityPointer = 0x34;

inline constexpr uint16_t kCommandMemory = 1U << 1;
inline constexpr uint16_t kCommandBusMaster = 1U << 2;

inline constexpr unsigned kBars = 6;

struct Identity {
  uint16_t vendor = 0;
  uint16_t device = 0;
  uint8_t revision = 0;
  uint32_t class_code = 0;  // 24 bits: base class, sub-class, interface
  uint16_t subsystem_vendor = 0;
  uint16_t subsystem = 0;
};

class ConfigSpace {
 public:
  static constexpr size_t kSize = 256;

  explicit ConfigSpace(const Identity& identity);

  // Set-up. `body` follows id and next pointer; `writable` has one mask byte per body byte
  // (missing: read-only). The offset of the
  // capability. Preconditions: room is left (WV_CHECK).
  uint8_t AddCapability(uint8_t id, std::span<const std::byte> body,
                        std::span<const std::byte> writable = {});
  // A 64-bit memory BAR in registers `index` and `index + 1`; `size` is a power of two ≥ 16
  // (WV_CHECK).
  void AddMemoryBar(unsigned index, uint64_t size);

  // Set-up: the guest may change these bits too.
  void AllowWrites(uint16_t offset, Le32 mask);

  // Preconditions: offset + size ≤ kSize.
  void Read(uint16_t offset, std::span<std::byte> out) const;
  void Write(uint16_t offset, std::span<const std::byte> in);

  uint16_t command() const { return Get16(kCommand); }

  // 0 when there is no such BAR.
  uint64_t bar_size(unsigned index) const { return bar_sizes_.at(index); }

  uint64_t bar_address(unsigned index) const;
  void set_bar_address(unsigned index, uint64_t address);

  uint8_t Get8(uint16_t offset) const { return static_cast<uint8_t>(bytes_.at(offset)); }

  uint16_t Get16(uint16_t offset) const;
  uint32_t Get32(uint16_t offset) const;

  void Set8(uint16_t offset, uint8_t value) { bytes_.at(offset) = std::byte{value}; }

  void Set16(uint16_t offset, uint16_t value);
  void Set32(uint16_t offset, uint32_t value);

 private:
  std::array<std::byte, kSize> bytes_{};
  std::array<std::byte, kSize> writable_{};
  std::array<uint64_t, kBars> bar_sizes_{};
  uint8_t last_capability_ = 0;
  uint8_t next_free_ = 0x40;
};

}  // namespace wyvern::pci
