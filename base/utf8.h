// base/utf8.h — text from others that must be UTF-8 (RFC 3629).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace wyvern {

// Bytes of the character that `text` begins with; 0: it begins with none (RFC 3629 §4: no surrogates, nothing longer than it need be).
size_t Utf8Length(std::string_view text);

// `text` with '?' for each byte that belongs to no character.
std::string ToUtf8(std::string text);

}  // namespace wyvern
