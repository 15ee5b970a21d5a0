#include "oci/json.h"

#include <fmt/format.h>

#include <limits>

#include "oci/fields.h"

namespace wyvern::oci {
namespace {

// Nesting is checked on the text: the parser itself is iterative, but whoever walks or prints the tree recurses.
Result<> CheckDepth(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
      continue;
    }
    if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) {
        return Fail(Code::kInvalidArgument, fmt::format("nested deeper than {} levels", kMaxDepth));
      }
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return {};
}

std::string Join(std::string_view where, std::string_view key) {
  return where.empty() ? std::string(key) : fmt::format("{}.{}", where, key);
}

bool IsEmptyValue(const Json& value) {
  if (value.is_string()) {
    return value.get_ref<const std::string&>().empty();
  }
  if (value.is_boolean()) {
    return !value.get<bool>();
  }
  return (value.is_structured() && value.empty()) ||
         (value.is_number_unsigned() && value.get<uint64_t>() == 0);
}

tl::unexpected<Error> Wrong(std::string_view where, std::string_view must) {
  return Fail(Code::kInvalidArgument, fmt::format("{}: must be {}", where, must));
}

Result<> CheckString(const Json& value, std::string_view where) {
  if (!value.is_string()) {
    return Wrong(where, "a string");
  }
  if (value.get_ref<const std::string&>().find('\0') != std::string::npos) {
    return Wrong(where, "without NUL characters");
  }
  return {};
}

Result<> CheckInteger(const Json& value, std::string_view where, int64_t low, uint64_t high) {
  if (!value.is_number_integer()) {
    return Wrong(where, "an integer");
  }
  const bool fits =
      value.is_number_unsigned() ? value.get<uint64_t>() <= high : value.get<int64_t>() >= low;
  if (!fits) {
    return Wrong(where, fmt::format("in {}..{}", low, high));
  }
  return {};
}

Result<> CheckLeaf(const Json& value, FieldKind kind, std::string_view where) {
  switch (kind) {
    case FieldKind::kString:
      return CheckString(value, where);
    case FieldKind::kBool:
      if (!value.is_boolean()) {
        return Wrong(where, "true or false");
      }
      return {};
    case FieldKind::kU32:
      return CheckInteger(value, where, 0, std::numeric_limits<uint32_t>::max());
    case FieldKind::kI32:
      return CheckInteger(value, where, std::numeric_limits<int32_t>::min(),
                          std::numeric_limits<int32_t>::max());
    case FieldKind::kU64:
      return CheckInteger(value, where, 0, std::numeric_limits<uint64_t>::max());
    case FieldKind::kI64:
      return CheckInteger(value, where, std::numeric_limits<int64_t>::min(),
                          std::numeric_limits<int64_t>::max());
    case FieldKind::kStrings:
    case FieldKind::kUints:
      if (!value.is_array()) {
        return Wrong(where, "an array");
      }
      for (size_t i = 0; i < value.size(); ++i) {
        WV_TRY_VOID(CheckLeaf(value[i],
                              kind == FieldKind::kStrings ? FieldKind::kString : FieldKind::kU32,
                              fmt::format("{}[{}]", where, i)));
      }
      return {};
    case FieldKind::kStringMap:
      if (!value.is_object()) {
        return Wrong(where, "an object");
      }
      for (const auto& [key, item] : value.items()) {
        WV_TRY_VOID(CheckString(item, fmt::format("{}.{}", where, key)));
      }
      return {};
    default:
      return {};
  }
}

Result<> PruneObject(Json& node, const std::string& pattern, const std::string& where,
                     Notes& notes);

Result<> PruneField(Json& value, const Field& field, const std::string& where, Notes& notes) {
  const std::string pattern(field.path);
  switch (field.kind) {
    case FieldKind::kObject:
      return PruneObject(value, pattern, where, notes);
    case FieldKind::kArray:
      if (!value.is_array()) {
        return Wrong(where, "an array");
      }
      for (size_t i = 0; i < value.size(); ++i) {
        WV_TRY_VOID(PruneObject(value[i], pattern + "[]", fmt::format("{}[{}]", where, i), notes));
      }
      return {};
    case FieldKind::kMap:
      if (!value.is_object()) {
        return Wrong(where, "an object");
      }
      for (auto it = value.begin(); it != value.end(); ++it) {
        WV_TRY_VOID(PruneObject(*it, pattern + "{}", fmt::format("{}.{}", where, it.key()), notes));
      }
      return {};
    default:
      return CheckLeaf(value, field.kind, where);
  }
}

// One member: true when it stays.
Result<bool> PruneMember(Json& value, const std::string& key, const std::string& pattern,
                         const std::string& where, Notes& notes) {
  if (value.is_null()) {
    return false;  // how Go writes an empty slice
  }
  const bool plain = key.find_first_of(".[]{}") == std::string::npos;
  const Field* field = plain ? FindField(Join(pattern, key)) : nullptr;
  const std::string place = Join(where, key);
  if (field == nullptr) {
    notes.Add(fmt::format("{}: unknown field, ignored", place));
    return false;
  }
  if (field->handling == Handling::kDropped || field->handling == Handling::kRefused) {
    if (IsEmptyValue(value)) {
      return false;
    }
    if (field->handling == Handling::kRefused) {
      return Fail(Code::kInvalidArgument, fmt::format("{}: refused: {}", place, field->note));
    }
    notes.Add(fmt::format("{}: ignored: {}", place, field->note));
    return false;
  }
  WV_TRY_VOID(PruneField(value, *field, place, notes));
  return true;
}

Result<> PruneObject(Json& node, const std::string& pattern, const std::string& where,
                     Notes& notes) {
  if (!node.is_object()) {
    return Wrong(where.empty() ? "config.json" : where, "an object");
  }
  for (auto it = node.begin(); it != node.end();) {
    WV_TRY(const bool stays, PruneMember(*it, it.key(), pattern, where, notes));
    it = stays ? std::next(it) : node.erase(it);
  }
  return {};
}

}  // namespace

void Notes::Add(std::string note) {
  if (out_ == nullptr) {
    return;
  }
  if (note.size() > 300) {
    note.resize(300);
    note += "…";
  }
  if (suppressed_ == 0 && out_->size() < kMaxNotes) {
    out_->push_back(std::move(note));
    return;
  }
  const std::string last = fmt::format("{} more such lines", ++suppressed_);
  if (suppressed_ == 1) {
    out_->push_back(last);
  } else {
    out_->back() = last;
  }
}

Result<Json> ParseJson(std::string_view text, size_t limit) {
  if (text.size() > limit) {
    return Fail(Code::kInvalidArgument, fmt::format("larger than {} bytes", limit));
  }
  WV_TRY_VOID(CheckDepth(text));
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    return Fail(Code::kInvalidArgument, fmt::format("not JSON: {}", e.what()));
  }
}

Result<> Prune(Json& node, std::string_view pattern, Notes& notes) {
  const std::string path(pattern);
  return PruneObject(node, path, path, notes);
}

std::string Dump(const Json& node) {
  return node.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string GetString(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

bool GetBool(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_boolean() && it->get<bool>();
}

int64_t GetInt(const Json& object, const char* key, int64_t otherwise) {
  const auto it = object.find(key);
  return it != object.end() && it->is_number_integer() ? it->get<int64_t>() : otherwise;
}

std::vector<std::string> GetStrings(const Json& object, const char* key) {
  std::vector<std::string> out;
  const auto it = object.find(key);
  if (it == object.end() || !it->is_array()) {
    return out;
  }
  for (const Json& item : *it) {
    if (item.is_string()) {
      out.push_back(item.get<std::string>());
    }
  }
  return out;
}

Json* Child(Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_structured() ? &*it : nullptr;
}

const Json* Child(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_structured() ? &*it : nullptr;
}

}  // namespace wyvern::oci
