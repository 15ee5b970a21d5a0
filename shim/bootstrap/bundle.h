// bootstrap/bundle.h — the little the shim itself reads of a bundle; the runtime reads the rest.
// Trust:   config.json is the client's: bounded, and anything malformed is an Error.
#pragma once

#include <map>
#include <string>

#include "base/error.h"

namespace wyvern::shim {

// The group a container belongs to by its annotations (one sandbox per group); empty when it stands alone.
Result<std::string> GroupOf(const std::string& bundle);
// The same for text of a config.json.
Result<std::string> GroupOfSpec(const std::string& config_json);

// Where `start` leaves the runtime options (an Any as it came) of a bundle without a config.json, which is a sandbox of the Sandbox API: no call
// brings them.
inline constexpr char kStartOptionsFile[] = "runtime-options";

// All annotations of a bundle.
Result<std::map<std::string, std::string>> AnnotationsOf(const std::string& bundle);
Result<std::map<std::string, std::string>> AnnotationsOfSpec(const std::string& config_json);

}  // namespace wyvern::shim
