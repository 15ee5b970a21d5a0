#include "agent/network_address.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <system_error>

namespace wyvern::agent {

std::optional<IpAddress> MakeIpAddress(uint8_t family, std::span<const std::byte> bytes) {
  IpAddress address;
  address.family = family;
  if (address.size() == 0 || bytes.size() != address.size()) {
    return std::nullopt;
  }
  std::memcpy(address.bytes.data(), bytes.data(), bytes.size());
  return address;
}

std::optional<IpAddress> ParseIpAddress(std::string_view text) {
  // inet_pton wants a zero behind it, and stops at one within.
  if (text.size() >= INET6_ADDRSTRLEN || text.find('\0') != std::string_view::npos) {
    return std::nullopt;
  }
  const std::string terminated(text);
  for (const int family : {AF_INET, AF_INET6}) {
    IpAddress address;
    if (inet_pton(family, terminated.c_str(), address.bytes.data()) == 1) {
      address.family = static_cast<uint8_t>(family);
      return address;
    }
  }
  return std::nullopt;
}

std::optional<IpPrefix> ParseIpPrefix(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) {
    return std::nullopt;
  }
  const auto address = ParseIpAddress(text.substr(0, slash));
  const std::string_view digits = text.substr(slash + 1);
  IpPrefix prefix;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), prefix.length);
  if (!address || error != std::errc() || end != digits.data() + digits.size() ||
      prefix.length > address->size() * 8) {
    return std::nullopt;
  }
  prefix.address = *address;
  return prefix;
}

bool IsNetwork(const IpPrefix& prefix) {
  const auto bytes = prefix.address.used();
  for (size_t i = prefix.length / 8U; i < bytes.size(); ++i) {
    const bool first = i == prefix.length / 8U;
    const uint8_t behind =
        first ? static_cast<uint8_t>(0xffU >> (prefix.length % 8U)) : uint8_t{0xff};
    if ((bytes[i] & behind) != 0) {
      return false;
    }
  }
  return true;
}

bool IsStation(const MacAddress& mac) {
  return (mac[0] & 1U) == 0 && std::ranges::any_of(mac, [](uint8_t byte) { return byte != 0; });
}

std::string ToText(const IpAddress& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (!address.is_set() ||
      inet_ntop(address.family, address.bytes.data(), text.data(), text.size()) == nullptr) {
    return "";
  }
  return text.data();
}

std::string ToText(const IpPrefix& prefix) {
  return fmt::format("{}/{}", ToText(prefix.address), prefix.length);
}

std::string ToText(const MacAddress& mac) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3],
                     mac[4], mac[5]);
}

}  // namespace wyvern::agent
