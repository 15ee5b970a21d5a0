// The statements of a config.toml, whatever it is; what was put in can be taken out again.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "install/containerd_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace cli = wyvern::cli;
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (const cli::TomlStatement& statement : cli::TomlStatements(text)) {
    (void)cli::TomlStrings(statement.value);
  }
  const std::string before = cli::WithoutHandler(text).value_or(text);
  const auto without = cli::WithoutHandler(cli::WithHandler(text));
  WV_CHECK(without.has_value() && (*without == before || *without == before + "\n"));
  return 0;
}
