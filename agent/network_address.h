// agent/network_address.h — addresses of networks as values: compared, sorted, from text and to it.
// Spec:    inet_pton(3), inet_ntop(3); IPv6 without a zone ("%eth0"): what an address belongs to is always said beside it.
// Shape:   bytes in network order; those of an IPv4 address are the first four, the rest is zero.
// Threads: values.
#pragma once

#include <sys/socket.h>

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace wyvern::agent {

using MacAddress = std::array<uint8_t, 6>;

struct IpAddress {
  uint8_t family = AF_UNSPEC;  // AF_UNSPEC: there is none
  std::array<uint8_t, 16> bytes{};

  auto operator<=>(const IpAddress&) const = default;

  bool is_set() const { return family != AF_UNSPEC; }

  size_t size() const { return family == AF_INET ? 4 : (family == AF_INET6 ? 16 : 0); }

  std::span<const uint8_t> used() const { return {bytes.data(), size()}; }
};

struct IpPrefix {
  IpAddress address;
  uint8_t length = 0;  // in bits, at most those of the address

  auto operator<=>(const IpPrefix&) const = default;
};

// Nothing: it is no address of that family, or `bytes` has another length.
std::optional<IpAddress> MakeIpAddress(uint8_t family, std::span<const std::byte> bytes);
// "10.1.0.2", "fd00::2"
std::optional<IpAddress> ParseIpAddress(std::string_view text);
// "10.1.0.2/16"; the bits behind the prefix may be set.
std::optional<IpPrefix> ParseIpPrefix(std::string_view text);
// Whether the bits behind the prefix are zero, as the kernel wants it of a route's destination.
bool IsNetwork(const IpPrefix& prefix);
// Of one network device: not zero, not of a group.
bool IsStation(const MacAddress& mac);

std::string ToText(const IpAddress& address);  // "": there is none
std::string ToText(const IpPrefix& prefix);
std::string ToText(const MacAddress& mac);

}  // namespace wyvern::agent
