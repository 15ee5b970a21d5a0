// network/attributes.h — the attributes of a netlink message, each by its number; libnl frames them.
// Trust:   nothing: an attribute that is too short is one that is not there.
#pragma once

#include <arpa/inet.h>
#include <netlink/attr.h>
#include <netlink/msg.h>

#include <array>
#include <cstring>
#include <optional>
#include <string>

#include "base/error.h"

namespace wyvern::runtime {

// The address that `bytes` are, as inet_ntop writes it; empty: none of that family.
inline std::string AddressText(const void* bytes, int length, int family) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if ((family != AF_INET && family != AF_INET6) || length != (family == AF_INET ? 4 : 16) ||
      inet_ntop(family, bytes, text.data(), text.size()) == nullptr) {
    return {};
  }
  return text.data();
}

// The same of an attribute, which may be null.
inline std::string AddressText(const nlattr* attribute, int family) {
  return attribute == nullptr ? std::string()
                              : AddressText(nla_data(attribute), nla_len(attribute), family);
}

template <int kMax>
class Attributes {
 public:
  // Points into the message.
  template <typename Header>
  static Result<Attributes> OfMessage(nlmsghdr* message, Header* header) {
    Attributes out;
    if (nlmsg_parse(message, sizeof(Header), out.at_.data(), kMax, nullptr) < 0) {
      return Fail(Code::kInternal,
                  "rtnetlink: a malformed message of type " + std::to_string(message->nlmsg_type));
    }
    std::memcpy(header, nlmsg_data(message), sizeof(Header));
    return out;
  }

  // Of what is nested in `attribute`; none if that is null.
  static Attributes Nested(nlattr* attribute) {
    Attributes out;
    if (attribute != nullptr && nla_parse_nested(out.at_.data(), kMax, attribute, nullptr) < 0) {
      out.at_.fill(nullptr);
    }
    return out;
  }

  nlattr* operator[](int number) const { return at_.at(static_cast<size_t>(number)); }

  template <typename T>
  std::optional<T> Number(int number) const {
    const nlattr* const it = (*this)[number];
    if (it == nullptr || nla_len(it) < static_cast<int>(sizeof(T))) {
      return std::nullopt;
    }
    T value{};
    std::memcpy(&value, nla_data(it), sizeof(T));
    return value;
  }

  // Up to a NUL; empty if it is not there.
  std::string Text(int number) const {
    const nlattr* const it = (*this)[number];
    if (it == nullptr) {
      return {};
    }
    const char* const bytes = static_cast<const char*>(nla_data(it));
    return {bytes, strnlen(bytes, static_cast<size_t>(nla_len(it)))};
  }

  std::string Address(int number, int family) const { return AddressText((*this)[number], family); }

 private:
  std::array<nlattr*, kMax + 1> at_{};
};

}  // namespace wyvern::runtime
