// base/kernel_text.h — the small texts in which the kernel tells its figures: lines of words and numbers (/proc, cgroup2 files).
// Errors:  what is no number is 0, as a figure that is not there would be.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string_view>

namespace wyvern {

inline uint64_t Number(std::string_view word) {
  uint64_t value = 0;
  (void)std::from_chars(word.data(), word.data() + word.size(), value);
  return value;
}

// The next word of `text`, which then begins behind it; empty at the end.
inline std::string_view NextWord(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  const std::string_view word = text.substr(0, text.find_first_of(" \t"));
  text.remove_prefix(word.size());
  return word;
}

template <typename F>
void ForEachLine(std::string_view text, F&& each) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    each(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

}  // namespace wyvern
