// state.json as anyone may have damaged it: a record that formats to itself again, or an error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "state/state.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern::runtime;
  auto record = ParseState(std::string_view(reinterpret_cast<const char*>(data), size));
  if (record.has_value()) {
    const std::string text = FormatState(*record);
    auto again = ParseState(text);
    WV_CHECK(again.has_value() && FormatState(*again) == text);
  }
  return 0;
}
