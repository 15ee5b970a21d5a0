// bootstrap/sha256.h — SHA-256, for the names of sockets.   Spec: FIPS 180-4 §6.2.
#pragma once

#include <string>
#include <string_view>

namespace wyvern::shim {

// 64 lower-case hex digits.
std::string Sha256Hex(std::string_view data);

}  // namespace wyvern::shim
