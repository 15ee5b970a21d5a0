// oci/json.h — JSON of other parties: parsed within bounds, checked and pruned along the field table. Internal to oci/.
// Trust:   anything may be in the text. After Parse it is UTF-8, nested at most kMaxDepth deep; after Prune every known field has its type
//          and nothing unknown, dropped or null is left.
// Errors:  INVALID_ARGUMENT naming the field ("mounts[3].type: must be a string").
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace wyvern::oci {

using Json = nlohmann::json;

inline constexpr int kMaxDepth = 32;

// What the user is told: one line each, at most kMaxNotes and one that counts the rest.
class Notes {
 public:
  static constexpr size_t kMaxNotes = 64;

  explicit Notes(std::vector<std::string>* out) : out_(out) {}

  void Add(std::string note);

 private:
  std::vector<std::string>* out_;
  size_t suppressed_ = 0;
};

Result<Json> ParseJson(std::string_view text, size_t limit);

// `pattern`: the table path of `node`'s own place ("" for config.json, "process", "linux.resources").
Result<> Prune(Json& node, std::string_view pattern, Notes& notes);

// Invalid UTF-8 (only from our own side's paths) is replaced.
std::string Dump(const Json& node);

// Fields that Prune has type-checked; absent ones give the default.
std::string GetString(const Json& object, const char* key);
bool GetBool(const Json& object, const char* key);
int64_t GetInt(const Json& object, const char* key, int64_t otherwise = 0);
std::vector<std::string> GetStrings(const Json& object, const char* key);
// nullptr when absent or not an object/array.
Json* Child(Json& object, const char* key);
const Json* Child(const Json& object, const char* key);

}  // namespace wyvern::oci
