#include "config/toml.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "config/toml_scanner.h"

namespace wyvern::runtime {
namespace {

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return std::ranges::equal(a, b, {}, lower, lower);
}

// The fields of the message that carries the text, left in it. Go finds them in either case.
bool IsOfMessage(std::string_view key, std::string_view text) {
  return EqualsIgnoringCase(key, "TypeUrl") ||
         (EqualsIgnoringCase(key, "ConfigPath") && text.empty());
}

class TomlReader {
 public:
  TomlReader(std::string_view text, std::string_view name) : in_(text, name), name_(name) {}

  Result<std::vector<ConfigEntry>> Read() {
    WV_TRY_VOID(in_.CheckCharacters());
    for (in_.SkipBlank(); !in_.AtEnd(); in_.SkipBlank()) {
      WV_TRY_VOID(in_.Peek() == '[' ? ReadHeader() : ReadPair(section_));
      WV_TRY_VOID(in_.EndOfLine());
    }
    return std::move(entries_);
  }

 private:
  tl::unexpected<Error> At(int line, const std::string& key, std::string_view what) const {
    return Fail(Code::kInvalidArgument, fmt::format("{}:{}: {}: {}", name_, line, key, what));
  }

  // [sandbox]
  Result<> ReadHeader() {
    const int line = in_.line();
    in_.Take('[');
    const bool list = in_.Take('[');
    WV_TRY(const std::string key, in_.Key());
    WV_TRY_VOID(in_.Expect(']'));
    if (!IsSection(key)) {
      return At(line, key, FindKey(key) == nullptr ? "unknown key" : "must be a value");
    }
    if (list) {
      return At(line, key, "must be a section with keys below it");
    }
    if (std::ranges::find(headers_, key) != headers_.end()) {
      return At(line, key, "given twice");
    }
    headers_.push_back(key);
    section_ = key + ".";
    return {};
  }

  // vcpus = 2; an unknown key's value is not looked at, unless it is one of the message's.
  Result<> ReadPair(const std::string& prefix) {
    const int line = in_.line();
    WV_TRY(const std::string name, in_.Key());
    WV_TRY_VOID(in_.Expect('='));
    in_.SkipSpaces();
    const std::string key = prefix + name;
    if (IsSection(key)) {
      return in_.Take('{') ? ReadInline(key + ".")
                           : At(line, key, "must be a section with keys below it");
    }
    if (FindKey(key) == nullptr) {
      if (in_.Peek() == '"' || in_.Peek() == '\'') {
        WV_TRY(const std::string text, in_.String());
        if (IsOfMessage(key, text)) {
          return {};
        }
      }
      return At(line, key, "unknown key");
    }
    if (std::ranges::find(entries_, key, &ConfigEntry::key) != entries_.end()) {
      return At(line, key, "given twice");
    }
    WV_TRY(std::optional<RawValue> value, ReadValue());
    if (!value.has_value()) {
      return At(line, key, "must be a string, an integer, true, false or a list of strings");
    }
    entries_.push_back({key, *std::move(value), line});
    return {};
  }

  // {vcpus = 2, memory = '1GiB'}, after the brace. Recursion is bounded by the key table: only sections of it are entered.
  Result<> ReadInline(const std::string& prefix) {
    in_.SkipSpaces();
    if (in_.Take('}')) {
      return {};
    }
    do {
      WV_TRY_VOID(ReadPair(prefix));
      in_.SkipSpaces();
    } while (in_.Take(','));
    return in_.Expect('}');
  }

  // Nothing: of a kind that no key has.
  Result<std::optional<RawValue>> ReadValue() {
    if (in_.Peek() == '"' || in_.Peek() == '\'') {
      WV_TRY(std::string text, in_.String());
      return RawValue{RawType::kString, std::move(text), {}};
    }
    if (in_.Take('[')) {
      return ReadList();
    }
    const std::string_view word = in_.Word();
    if (word == "true" || word == "false") {
      return RawValue{RawType::kBoolean, std::string(word), {}};
    }
    if (const std::optional<int64_t> number = TomlInteger(word); number.has_value()) {
      return RawValue{RawType::kInteger, fmt::format("{}", *number), {}};
    }
    return std::nullopt;
  }

  Result<std::optional<RawValue>> ReadList() {
    RawValue list{RawType::kList, {}, {}};
    do {
      in_.SkipBlank();
      if (in_.Peek() == ']') {
        break;
      }
      if (in_.Peek() != '"' && in_.Peek() != '\'') {
        return std::nullopt;
      }
      WV_TRY(std::string item, in_.String());
      list.items.push_back(std::move(item));
      in_.SkipBlank();
    } while (in_.Take(','));
    WV_TRY_VOID(in_.Expect(']'));
    return list;
  }

  TomlScanner in_;
  std::string_view name_;
  std::string section_;  // with a dot at its end, or empty
  std::vector<std::string> headers_;
  std::vector<ConfigEntry> entries_;
};

}  // namespace

Result<std::vector<ConfigEntry>> ParseToml(std::string_view text, std::string_view name) {
  if (text.size() > kMaxDocumentBytes) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}: larger than {} bytes", name, kMaxDocumentBytes));
  }
  return TomlReader(text, name).Read();
}

}  // namespace wyvern::runtime
