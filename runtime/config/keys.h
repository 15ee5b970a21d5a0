// config/keys.h — the table of keys: name, type, default, meaning. Internal to config/.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace wyvern::runtime {

// kWord: YAML and annotations, where only the key tells what a value is. The others: TOML, which tells itself, and must agree.
enum class RawType : uint8_t { kWord, kString, kInteger, kBoolean, kList };

// A value as a document or an annotation gives it.
struct RawValue {
  RawType type = RawType::kWord;
  std::string text;
  std::vector<std::string> items;  // kList
};

// A line of a document: one of Keys() with its value.
struct ConfigEntry {
  std::string key;
  RawValue value;
  int line = 0;  // from 1
};

inline constexpr size_t kMaxDocumentBytes = 64U << 10U;

struct Key {
  std::string_view name;      // "sandbox.vcpus"
  std::string_view fallback;  // the built-in value, as text
  std::string_view doc;       // one or more lines, unit included
  bool
      system_only;  // not by runtime options or annotations: what `delete` by a fresh process must find again
  std::function<Result<>(Config&, const RawValue&)> set;
  std::function<std::string(const Config&)> get;
};

std::span<const Key> Keys();
const Key* FindKey(std::string_view name);
// True when `prefix` followed by '.' begins some key.
bool IsSection(std::string_view prefix);

// "30s", "500ms", "2m", "1h", "0".
Result<std::chrono::milliseconds> ParseDuration(std::string_view text);

}  // namespace wyvern::runtime
