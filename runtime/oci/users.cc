// User namespaces, and id-mapped mounts.
#include <fmt/format.h>

#include <algorithm>

#include "oci/translate.h"

namespace wyvern::oci {
namespace {

std::vector<IdRange> ReadRanges(const Json& object, const char* key) {
  std::vector<IdRange> out;
  const Json* list = Child(object, key);
  for (size_t i = 0; list != nullptr && i < list->size(); ++i) {
    const auto number = [&](const char* name) {
      return static_cast<uint32_t>(GetInt((*list)[i], name));
    };
    out.push_back({number("containerID"), number("hostID"), number("size")});
  }
  return out;
}

Json Written(const std::vector<IdRange>& ranges) {
  Json out = Json::array();
  for (const IdRange& range : ranges) {
    out.push_back({{"containerID", range.first}, {"hostID", range.outside}, {"size", range.size}});
  }
  return out;
}

}  // namespace

Result<IdMap> ReadIdMap(const Json& object, const std::string& where) {
  IdMap map{ReadRanges(object, "uidMappings"), ReadRanges(object, "gidMappings")};
  if (!map.empty()) {
    WV_TRY_VOID_CONTEXT(CheckIdMap(map), where + ".uidMappings, gidMappings");
  }
  return map;
}

void WriteIdMap(const IdMap& map, Json& object) {
  object["uidMappings"] = Written(map.users);
  object["gidMappings"] = Written(map.groups);
}

Result<IdMap> ReadUserNamespace(const Json& linux_section) {
  WV_TRY(IdMap map, ReadIdMap(linux_section, "linux"));
  const Json* namespaces = Child(linux_section, "namespaces");
  const bool wanted =
      namespaces != nullptr && std::ranges::any_of(*namespaces, [](const Json& entry) {
        return GetString(entry, "type") == "user";
      });
  if (wanted && map.empty()) {
    return Fail(Code::kInvalidArgument,
                "linux.uidMappings, gidMappings: missing: a user namespace is made in the guest "
                "with these, one of the host's is not joined");
  }
  if (!wanted && !map.empty()) {
    return Fail(Code::kInvalidArgument,
                "linux.uidMappings, gidMappings: refused without a user namespace in "
                "linux.namespaces");
  }
  return map;
}

}  // namespace wyvern::oci
