// config/toml.h — containerd's runtime options (config_body, TOML 1.0) as a flat list of keys, each with its line. Internal to config/.
// Shape:   the CRI plugin renders a handler's `options` table anew and passes it whole: lines are those of that text, and the message's own
//          TypeUrl and (empty) ConfigPath are in it; they are left out here.
// Limits:  reads what our keys can be: strings on one line, integers, booleans, lists of strings, sections in every spelling. Anything else is an
//          error. Of two definitions of a section only a second [header] is refused.
#pragma once

#include <string_view>
#include <vector>

#include "base/error.h"
#include "config/keys.h"

namespace wyvern::runtime {

// `name` stands in messages: "<name>:<line>: …". Every entry's key is one of Keys(); anything else is an error.
Result<std::vector<ConfigEntry>> ParseToml(std::string_view text, std::string_view name);

}  // namespace wyvern::runtime
