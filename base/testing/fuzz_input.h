// base/testing/fuzz_input.h — a fuzzer's bytes taken from the front, as a script reads them: what is
// missing is zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace wyvern {

class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : rest_(data, size) {}

  bool empty() const { return rest_.empty(); }

  uint8_t Byte() { return empty() ? uint8_t{0} : Take(1)[0]; }

  // Little-endian, as all of these.
  uint16_t Word() { return static_cast<uint16_t>(Number(2)); }

  uint32_t Word32() { return static_cast<uint32_t>(Number(4)); }

  uint64_t Word64() { return Number(8); }

  // At most `bytes`.
  std::span<const uint8_t> Take(size_t bytes) {
    const auto taken = rest_.first(bytes < rest_.size() ? bytes : rest_.size());
    rest_ = rest_.subspan(taken.size());
    return taken;
  }

 private:
  uint64_t Number(unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; ++i) {
      value |= uint64_t{Byte()} << (8 * i);
    }
    return value;
  }

  std::span<const uint8_t> rest_;
};

}  // namespace wyvern
