// config/toml_scanner.h — the words of a TOML document: keys, strings, integers, what stands between them. Internal to config/.
// Spec:    TOML 1.0.0. Less than all of it: no multi-line strings, and floats and dates are only told apart from what we read.
// Units:   lines count from 1. Errors: INVALID_ARGUMENT "<name>:<line>: not toml: …".
// Trust:   any bytes; nothing here recurses, and what it returns is UTF-8.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace wyvern::runtime {

class TomlScanner {
 public:
  // `text` outlives the scanner.
  TomlScanner(std::string_view text, std::string_view name) : rest_(text), name_(name) {}

  // To be called first: UTF-8 without control characters but tab and line end.
  Result<> CheckCharacters();

  int line() const { return line_; }

  bool AtEnd() const { return rest_.empty(); }

  char Peek() const { return rest_.empty() ? '\0' : rest_.front(); }

  bool Take(char wanted);
  Result<> Expect(char wanted);

  void SkipSpaces();  // and tabs
  void SkipBlank();   // and comments and line ends
  Result<> EndOfLine();

  // Parts joined by dots, without their quotes.
  Result<std::string> Key();
  // Peek() is a quote.
  Result<std::string> String();
  // What a value without quotes or brackets consists of; may be empty.
  std::string_view Word();

  tl::unexpected<Error> Syntax(std::string_view what) const;

 private:
  void SkipComment();
  Result<> Escape(std::string& out);

  std::string_view rest_;
  std::string_view name_;
  int line_ = 1;
};

// "-1_000", "0x1f", "0o17", "0b1"; nothing if it is none or beyond 64 bits.
std::optional<int64_t> TomlInteger(std::string_view word);

}  // namespace wyvern::runtime
