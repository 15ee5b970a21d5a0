// systemd/unit.h — what one tells systemd of a unit.
// Spec:    org.freedesktop.systemd1(5), systemd.resource-control(5), systemd.unit(5) ("valid characters").
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace wyvern::runtime {

inline constexpr size_t kMaxUnitName = 255;

// A property of a unit, by its D-Bus name: a number (t), a list of bytes (ay: AllowedCPUs), text (s) or a flag (b).
struct UnitProperty {
  std::string name;
  enum class Kind : uint8_t { kNumber, kBytes, kText, kFlag } kind = Kind::kNumber;
  uint64_t number = 0;  // kFlag: 0 or 1
  std::vector<uint8_t> bytes = {};
  std::string text = {};

  bool operator==(const UnitProperty&) const = default;
};

// Letters, digits and ":-_.\" , at most kMaxUnitName of them, and not nothing.
bool IsUnitName(std::string_view name);

}  // namespace wyvern::runtime
