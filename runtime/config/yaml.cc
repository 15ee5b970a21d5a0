#include "config/yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>

namespace wyvern::runtime {
namespace {

class YamlReader {
 public:
  explicit YamlReader(std::string_view name) : name_(name) {}

  // Recursion is bounded by the key table: only sections of it are entered.
  Result<> ReadMap(const YAML::Node& map, const std::string& prefix) {
    for (const auto& item : map) {
      if (!item.first.IsScalar()) {
        return At(item.first, prefix, "keys must be words");
      }
      const std::string key =
          prefix.empty() ? item.first.Scalar() : prefix + "." + item.first.Scalar();
      WV_TRY_VOID(ReadItem(item.first, item.second, key));
    }
    return {};
  }

  std::vector<ConfigEntry> Take() { return std::move(entries_); }

 private:
  static int LineOf(const YAML::Node& node) { return node.Mark().line + 1; }

  tl::unexpected<Error> At(const YAML::Node& node, const std::string& key,
                           std::string_view what) const {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}:{}: {}: {}", name_, LineOf(node), key, what));
  }

  Result<> ReadItem(const YAML::Node& name, const YAML::Node& value, const std::string& key) {
    if (IsSection(key)) {
      if (value.IsNull()) {
        return {};
      }
      return value.IsMap() ? ReadMap(value, key)
                           : Result<>(At(name, key, "must be a section with keys below it"));
    }
    if (FindKey(key) == nullptr) {
      return At(name, key, "unknown key");
    }
    if (std::ranges::find(entries_, key, &ConfigEntry::key) != entries_.end()) {
      return At(name, key, "given twice");
    }
    ConfigEntry entry{key, {}, LineOf(name)};
    if (value.IsSequence()) {
      entry.value.type = RawType::kList;
      for (const YAML::Node& item : value) {
        if (!item.IsScalar()) {
          return At(name, key, "must be a list of words");
        }
        entry.value.items.push_back(item.Scalar());
      }
    } else if (value.IsScalar()) {
      entry.value.text = value.Scalar();
    } else {
      return At(name, key, "must be a value");
    }
    entries_.push_back(std::move(entry));
    return {};
  }

  std::string name_;
  std::vector<ConfigEntry> entries_;
};

}  // namespace

Result<std::vector<ConfigEntry>> ParseYaml(std::string_view text, std::string_view name) {
  if (text.size() > kMaxDocumentBytes) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}: larger than {} bytes", name, kMaxDocumentBytes));
  }
  try {
    const YAML::Node root = YAML::Load(std::string(text));
    if (root.IsNull() || !root.IsDefined()) {
      return std::vector<ConfigEntry>();
    }
    if (!root.IsMap()) {
      return Fail(Code::kInvalidArgument, fmt::format("{}:1: must be a map of keys", name));
    }
    YamlReader reader(name);
    WV_TRY_VOID(reader.ReadMap(root, ""));
    return reader.Take();
  } catch (const YAML::Exception& e) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}:{}: not yaml: {}", name, e.mark.line + 1, e.msg));
  } catch (const std::exception& e) {
    return Fail(Code::kInvalidArgument, fmt::format("{}: not yaml: {}", name, e.what()));
  }
}

}  // namespace wyvern::runtime
