// testing/fuzz_records.h — fuzz input as records of one size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace wyvern::devices::testing {

// take(record) for each whole record, `most` of them at the most.
template <typename Record, typename F>
void ForEachRecord(std::span<const uint8_t> input, size_t most, F take) {
  static_assert(std::is_trivially_copyable_v<Record>);
  for (; most > 0 && input.size() >= sizeof(Record); --most) {
    Record record{};
    std::memcpy(&record, input.data(), sizeof(record));
    take(record);
    input = input.subspan(sizeof(record));
  }
}

}  // namespace wyvern::devices::testing
