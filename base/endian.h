// base/endian.h — integers with a fixed byte order, for wire structs. Alignment 1, so structs of
// them have the wire's layout.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>

namespace wyvern {

template <std::unsigned_integral T>
constexpr T ByteSwap(T value) {
  T out = 0;
  for (unsigned i = 0; i < sizeof(T); ++i) {
    out = static_cast<T>((static_cast<uint64_t>(out) << 8U) |
                         ((static_cast<uint64_t>(value) >> (8U * i)) & 0xffU));
  }
  return out;
}

template <std::unsigned_integral T, std::endian kOrder>
class EndianInt {
 public:
  EndianInt() = default;

  EndianInt(T value) { *this = value; }  // NOLINT(google-explicit-constructor): reads as a number

  EndianInt& operator=(T value) {
    const T raw = kOrder == std::endian::native ? value : ByteSwap(value);
    std::memcpy(bytes_, &raw, sizeof(T));
    return *this;
  }

  operator T() const { return value(); }  // NOLINT(google-explicit-constructor): reads as a number

  T value() const {
    T raw = 0;
    std::memcpy(&raw, bytes_, sizeof(T));
    return kOrder == std::endian::native ? raw : ByteSwap(raw);
  }

 private:
  unsigned char bytes_[sizeof(T)] = {};
};

using Le16 = EndianInt<uint16_t, std::endian::little>;
using Le32 = EndianInt<uint32_t, std::endian::little>;
using Le64 = EndianInt<uint64_t, std::endian::little>;
using Be16 = EndianInt<uint16_t, std::endian::big>;
using Be32 = EndianInt<uint32_t, std::endian::big>;
using Be64 = EndianInt<uint64_t, std::endian::big>;

}  // namespace wyvern
