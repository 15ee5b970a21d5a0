#include "pci/config_space.h"

#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/endian.h"

namespace wyvern::pci {

namespace {

constexpr uint16_t kStatusCapabilities = 1U << 4;
constexpr uint32_t kBarMemory64 = 0x4;
// Memory decoding, bus mastering, interrupt disable.
constexpr uint16_t kCommandWritable = kCommandMemory | kCommandBusMaster | (1U << 10);

}  // namespace

ConfigSpace::ConfigSpace(const Identity& identity) {
  Set16(0x00, identity.vendor);
  Set16(0x02, identity.device);
  Set8(0x08, identity.revision);
  Set8(0x09, static_cast<uint8_t>(identity.class_code));
  Set8(0x0a, static_cast<uint8_t>(identity.class_code >> 8U));
  Set8(0x0b, static_cast<uint8_t>(identity.class_code >> 16U));
  Set16(0x2c, identity.subsystem_vendor);
  Set16(0x2e, identity.subsystem);
  const Le16 command_mask(kCommandWritable);
  std::memcpy(&writable_.at(kCommand), &command_mask, 2);
  writable_.at(0x0c) = std::byte{0xff};  // cache line size
  writable_.at(0x3c) = std::byte{0xff};  // interrupt line: a note of the guest's to itself
}

uint8_t ConfigSpace::AddCapability(uint8_t id, std::span<const std::byte> body,
                                   std::span<const std::byte> writable) {
  const size_t length = body.size() + 2;
  WV_CHECK(next_free_ + length <= kSize && writable.size() <= body.size());
  const uint8_t offset = next_free_;
  Set8(offset, id);
  std::memcpy(&bytes_.at(offset + 2U), body.data(), body.size());
  if (!writable.empty()) {
    std::memcpy(&writable_.at(offset + 2U), writable.data(), writable.size());
  }
  Set8(last_capability_ == 0 ? kCapabilityPointer : static_cast<uint16_t>(last_capability_ + 1U),
       offset);
  Set16(kStatus, static_cast<uint16_t>(Get16(kStatus) | kStatusCapabilities));
  last_capability_ = offset;
  next_free_ = static_cast<uint8_t>((next_free_ + length + 3) / 4 * 4);
  return offset;
}

void ConfigSpace::AddMemoryBar(unsigned index, uint64_t size) {
  WV_CHECK(index + 1 < kBars && std::has_single_bit(size) && size >= 16);
  const auto offset = static_cast<uint16_t>(kBar0 + 4 * index);
  bar_sizes_.at(index) = size;
  Set32(offset, kBarMemory64);
  Set32(static_cast<uint16_t>(offset + 4), 0);
  const Le64 mask(~(size - 1));
  std::memcpy(&writable_.at(offset), &mask, 8);
}

void ConfigSpace::AllowWrites(uint16_t offset, Le32 mask) {
  WV_CHECK(offset % 4 == 0 && offset < kSize);
  for (size_t i = 0; i < 4; ++i) {
    writable_[offset + i] |= static_cast<std::byte>(mask.value() >> (8 * i));
  }
}

void ConfigSpace::Read(uint16_t offset, std::span<std::byte> out) const {
  WV_CHECK(out.size() <= kSize && offset <= kSize - out.size());
  std::memcpy(out.data(), &bytes_[offset], out.size());
}

void ConfigSpace::Write(uint16_t offset, std::span<const std::byte> in) {
  WV_CHECK(in.size() <= kSize && offset <= kSize - in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    std::byte& byte = bytes_[offset + i];
    const std::byte mask = writable_[offset + i];
    byte = (byte & ~mask) | (in[i] & mask);
  }
}

uint64_t ConfigSpace::bar_address(unsigned index) const {
  const auto offset = static_cast<uint16_t>(kBar0 + 4 * index);
  const uint64_t high = Get32(static_cast<uint16_t>(offset + 4));
  return (high << 32U | Get32(offset)) & ~uint64_t{0xf};
}

void ConfigSpace::set_bar_address(unsigned index, uint64_t address) {
  const auto offset = static_cast<uint16_t>(kBar0 + 4 * index);
  Set32(offset, static_cast<uint32_t>(address) | kBarMemory64);
  Set32(static_cast<uint16_t>(offset + 4), static_cast<uint32_t>(address >> 32U));
}

uint16_t ConfigSpace::Get16(uint16_t offset) const {
  return static_cast<uint16_t>(Get8(offset) | Get8(static_cast<uint16_t>(offset + 1)) << 8U);
}

uint32_t ConfigSpace::Get32(uint16_t offset) const {
  return Get16(offset) | uint32_t{Get16(static_cast<uint16_t>(offset + 2))} << 16U;
}

void ConfigSpace::Set16(uint16_t offset, uint16_t value) {
  Set8(offset, static_cast<uint8_t>(value));
  Set8(static_cast<uint16_t>(offset + 1), static_cast<uint8_t>(value >> 8U));
}

void ConfigSpace::Set32(uint16_t offset, uint32_t value) {
  Set16(offset, static_cast<uint16_t>(value));
  Set16(static_cast<uint16_t>(offset + 2), static_cast<uint16_t>(value >> 16U));
}

}  // namespace wyvern::pci
