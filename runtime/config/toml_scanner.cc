#include "config/toml_scanner.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/utf8.h"

namespace wyvern::runtime {
namespace {

constexpr size_t kMaxKeyBytes = 128;

constexpr bool IsControl(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

constexpr bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}

constexpr bool IsBare(char c) {
  return IsDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_';
}

bool IsCharacter(uint32_t code) {
  return code < 0xd800 || (code >= 0xe000 && code <= 0x10ffff);
}

void AppendUtf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  static constexpr uint32_t kLead[] = {0, 0xc0, 0xe0, 0xf0};
  out += static_cast<char>(kLead[more] | (code >> (6 * more)));
  for (int i = more - 1; i >= 0; --i) {
    out += static_cast<char>(0x80U | ((code >> (6 * i)) & 0x3fU));
  }
}

}  // namespace

tl::unexpected<Error> TomlScanner::Syntax(std::string_view what) const {
  return Fail(Code::kInvalidArgument, fmt::format("{}:{}: not toml: {}", name_, line_, what));
}

Result<> TomlScanner::CheckCharacters() {
  TomlScanner at = *this;
  while (!at.AtEnd()) {
    const size_t length = Utf8Length(at.rest_);
    if (length == 0) {
      return at.Syntax("this is no UTF-8");
    }
    const auto c = static_cast<unsigned char>(at.Peek());
    const bool line_end = c == '\n' || at.rest_.starts_with("\r\n");
    if (c == 0x7f || (c < 0x20 && c != '\t' && !line_end)) {
      return at.Syntax("control characters must be escaped");
    }
    at.line_ += c == '\n' ? 1 : 0;
    at.rest_.remove_prefix(length);
  }
  return {};
}

bool TomlScanner::Take(char wanted) {
  if (Peek() != wanted || AtEnd()) {
    return false;
  }
  line_ += wanted == '\n' ? 1 : 0;
  rest_.remove_prefix(1);
  return true;
}

Result<> TomlScanner::Expect(char wanted) {
  return Take(wanted) ? Result<>() : Syntax(fmt::format("expected '{}'", wanted));
}

void TomlScanner::SkipSpaces() {
  rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t"), rest_.size()));
}

void TomlScanner::SkipComment() {
  if (Peek() == '#') {
    rest_.remove_prefix(std::min(rest_.find_first_of("\r\n"), rest_.size()));
  }
}

void TomlScanner::SkipBlank() {
  do {
    SkipSpaces();
    SkipComment();
  } while (Take('\r') || Take('\n'));
}

Result<> TomlScanner::EndOfLine() {
  SkipSpaces();
  SkipComment();
  Take('\r');
  return AtEnd() || Take('\n') ? Result<>() : Syntax("expected the end of the line");
}

Result<std::string> TomlScanner::Key() {
  std::string key;
  bool first = true;
  do {
    SkipSpaces();
    key += std::exchange(first, false) ? "" : ".";
    if (Peek() == '"' || Peek() == '\'') {
      WV_TRY(const std::string part, String());
      key += part;
    } else {
      const auto end = std::ranges::find_if_not(rest_, IsBare);
      const auto length = static_cast<size_t>(end - rest_.begin());
      if (length == 0) {
        return Syntax("expected a key");
      }
      key += rest_.substr(0, length);
      rest_.remove_prefix(length);
    }
    SkipSpaces();
  } while (Take('.'));
  // Messages name it.
  if (key.size() > kMaxKeyBytes || std::ranges::any_of(key, IsControl)) {
    return Syntax("a key is too long or has control characters");
  }
  return key;
}

Result<std::string> TomlScanner::String() {
  const char quote = Peek();
  rest_.remove_prefix(1);
  if (rest_.starts_with(std::string(2, quote))) {
    return Syntax("multi-line strings are not read here");
  }
  std::string out;
  while (!Take(quote)) {
    if (AtEnd() || Peek() == '\n' || Peek() == '\r') {
      return Syntax("a string does not end");
    }
    if (quote == '"' && Take('\\')) {
      WV_TRY_VOID(Escape(out));
    } else {
      out += Peek();
      rest_.remove_prefix(1);
    }
  }
  return out;
}

Result<> TomlScanner::Escape(std::string& out) {
  static constexpr std::string_view kNames = "btnfr\"\\";
  static constexpr std::string_view kMeant = "\b\t\n\f\r\"\\";
  const char name = Peek();
  rest_.remove_prefix(AtEnd() ? 0 : 1);
  if (const size_t at = kNames.find(name); at != std::string_view::npos) {
    out += kMeant[at];
    return {};
  }
  const size_t digits = name == 'u' ? 4 : name == 'U' ? 8 : 0;
  uint32_t code = 0;
  const char* const end = rest_.data() + std::min(digits, rest_.size());
  const auto [stop, error] = std::from_chars(rest_.data(), end, code, 16);
  if (digits == 0 || rest_.size() < digits || error != std::errc() || stop != end ||
      !IsCharacter(code)) {
    return Syntax("unknown escape");
  }
  AppendUtf8(out, code);
  rest_.remove_prefix(digits);
  return {};
}

std::string_view TomlScanner::Word() {
  const std::string_view word = rest_.substr(0, rest_.find_first_of(" \t\r\n#,]}"));
  rest_.remove_prefix(word.size());
  return word;
}

std::optional<int64_t> TomlInteger(std::string_view word) {
  int base = 10;
  std::string digits;
  if (word.starts_with("0x") || word.starts_with("0o") || word.starts_with("0b")) {
    base = word[1] == 'x' ? 16 : word[1] == 'o' ? 8 : 2;
    word.remove_prefix(2);
  } else if (word.starts_with('-') || word.starts_with('+')) {
    digits = word.front() == '-' ? "-" : "";
    word.remove_prefix(1);
  }
  if (word.empty() || word.front() == '-' || (base == 10 && word.size() > 1 && word[0] == '0')) {
    return std::nullopt;
  }
  // An underscore stands between digits.
  bool between = false;
  for (const char c : word) {
    if (c == '_' && !between) {
      return std::nullopt;
    }
    between = c != '_';
    if (between) {
      digits += c;
    }
  }
  int64_t value = 0;
  const char* const end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value, base);
  return between && error == std::errc() && stop == end ? std::optional(value) : std::nullopt;
}

}  // namespace wyvern::runtime
