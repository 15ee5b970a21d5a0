// Runtime options as anyone may write them end in a list of known keys or an error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "config/config.h"
#include "config/toml.h"
#include "config/yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern::runtime;
  auto entries = ParseToml({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!entries.has_value()) {
    return 0;
  }
  Config config = BuiltInConfig();
  for (const ConfigEntry& entry : *entries) {
    WV_CHECK(FindKey(entry.key) != nullptr && entry.line > 0);
    static_cast<void>(FindKey(entry.key)->set(config, entry.value));
  }
  // What is in force then is printed as YAML that we read.
  WV_CHECK(ParseYaml(EffectiveYaml(config), "printed").has_value());
  return 0;
}
