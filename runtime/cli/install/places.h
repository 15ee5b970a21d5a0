// install/places.h — where an installation is, and who may change it. Internal to install/.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::cli {

inline constexpr char kVersions[] = "/usr/lib/wyvern";
inline constexpr char kCurrent[] = "/usr/lib/wyvern/current";
inline constexpr char kState[] = "/var/lib/wyvern";
inline constexpr char kManifest[] = "/var/lib/wyvern/install.json";
inline constexpr char kLock[] = "/var/lib/wyvern/install.lock";

// "<64 hex digits>"
std::string HexDigest(std::string_view text);

// Held while the descriptor is open. `made`: directories made for it. ABORTED: somebody else has it.
Result<UniqueFd> LockInstallation(const std::string& root, std::vector<std::string>& made);

// Writes a file of the administrator's anew, with the mode that it has and through a symlink; 0644 where there is none.
Result<> ReplaceFile(const std::string& path, const std::string& text);

}  // namespace wyvern::cli
