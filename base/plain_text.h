// base/plain_text.h — what a guest says about itself, as text that a terminal, a log and a protobuf string can take.
// Trust:   the guest is not trusted: control bytes would reach the terminal of whoever lists sandboxes.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace wyvern {

inline constexpr size_t kMaxGuestError = 500;  // bytes of an error's text

// At most `limit` bytes of `text`; what is not printable ASCII becomes '?'.
inline std::string PlainText(std::string_view text, size_t limit) {
  std::string plain(text.substr(0, limit));
  std::replace_if(
      plain.begin(), plain.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return plain;
}

}  // namespace wyvern
