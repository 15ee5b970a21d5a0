// base/user_namespace.h — mappings of user and group ids, and user namespaces that have them and nothing else.
// Spec:    user_namespaces(7): an id of the range [first, first+size) inside is one of [outside, outside+size) outside.
// Trust:   mappings may be anybody's words: CheckIdMap before they are used.
// Errors:  INVALID_ARGUMENT; what the kernel refuses, in its words.
// Threads: any.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"

namespace wyvern {

struct IdRange {
  uint32_t first = 0;    // in the namespace
  uint32_t outside = 0;  // in its parent
  uint32_t size = 0;

  auto operator<=>(const IdRange&) const = default;
};

struct IdMap {
  std::vector<IdRange> users, groups;

  bool empty() const { return users.empty() && groups.empty(); }

  auto operator<=>(const IdMap&) const = default;
};

inline constexpr size_t kMaxIdRanges = 340;  // of one map, in Linux

// Both maps have ranges, of ids that exist, none of them twice on either side.
Result<> CheckIdMap(const IdMap& map);

// "0:100000:65536,65536:300000:1", as containerd writes ranges into mount options. Not checked yet.
Result<std::vector<IdRange>> ParseIdRanges(std::string_view text);
std::string FormatIdRanges(const std::vector<IdRange>& ranges);

// A user namespace with this map; nobody is in it. It lives with the descriptor, and with what is made in it.
Result<UniqueFd> MakeUserNamespace(const IdMap& map);

}  // namespace wyvern
