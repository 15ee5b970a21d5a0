// Annotations as a pod's author may write them, lines NAME=VALUE, where every key that can be is allowed: a configuration that prints as one, or an error.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/fd.h"
#include "config/config.h"
#include "config/keys.h"
#include "config/yaml.h"

namespace {

// A file that allows everything; it stays open.
std::string AllowAll() {
  std::string yaml = "annotations:\n  allow: [";
  for (const auto& key : wyvern::runtime::Keys()) {
    yaml += key.system_only ? "" : std::string(key.name) + ", ";
  }
  yaml.replace(yaml.size() - 2, 2, "]\n");
  static const wyvern::UniqueFd file = *wyvern::MakeMemfd("allow", 0);
  WV_CHECK(wyvern::WriteAll(file, yaml).has_value());
  return "/proc/self/fd/" + std::to_string(file.get());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern::runtime;
  static const std::string allow_all = AllowAll();
  ConfigSources sources;
  sources.file = allow_all;
  sources.directory.clear();
  WV_CHECK(LoadConfig(sources).has_value());
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    const size_t equals = std::min(line.find('='), line.size());
    sources.annotations[line.substr(0, equals)] = line.substr(std::min(equals + 1, line.size()));
    at = end + 1;
  }
  if (const auto config = LoadConfig(sources); config) {
    WV_CHECK(ParseYaml(EffectiveYaml(**config), "printed").has_value());
  }
  return 0;
}
