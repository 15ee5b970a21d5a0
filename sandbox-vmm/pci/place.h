// pci/place.h — where a function is, in the words of its machine: the guest numbers buses itself.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>

#include <fmt/format.h>

namespace wyvern::pci {

struct Place {
  uint8_t slot = 0;  // of bus 0
  std::optional<uint8_t>
      port{};  // function 0 of the bus behind the root port that is this function of the slot

  auto operator<=>(const Place&) const = default;

  // As upcall.proto has it: "0000:00:05.0"; behind a port "0000:00:1e.3/0".
  std::string Text() const {
    return port ? fmt::format("0000:00:{:02x}.{}/0", slot, *port)
                : fmt::format("0000:00:{:02x}.0", slot);
  }
};

}  // namespace wyvern::pci
