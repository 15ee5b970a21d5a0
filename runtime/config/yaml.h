// config/yaml.h — a yaml document as a flat list of keys, each with its line. Internal to config/; yaml-cpp's exceptions end in yaml.cc.
#pragma once

#include <string_view>
#include <vector>

#include "base/error.h"
#include "config/keys.h"

namespace wyvern::runtime {

// `name` stands in messages: "<name>:<line>: …". Every entry's key is one of Keys(); anything else is an error.
Result<std::vector<ConfigEntry>> ParseYaml(std::string_view text, std::string_view name);

}  // namespace wyvern::runtime
