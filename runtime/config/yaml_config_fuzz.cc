// Configuration text as anyone may write it ends in a list of known keys or an error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "config/config.h"
#include "config/yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern::runtime;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto entries = ParseYaml(text, "fuzz");
  if (!entries.has_value()) {
    return 0;
  }
  Config config = BuiltInConfig();
  for (const ConfigEntry& entry : *entries) {
    WV_CHECK(FindKey(entry.key) != nullptr);
    static_cast<void>(FindKey(entry.key)->set(config, entry.value));
  }
  // What the program prints, it reads.
  WV_CHECK(ParseYaml(EffectiveYaml(config), "printed").has_value());
  return 0;
}
