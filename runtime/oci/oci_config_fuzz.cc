// config.json as anyone may write it: parsing and translating end in a value or an error, and what comes out parses again.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "oci/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto spec = oci::Spec::Parse(text);
  if (spec.has_value()) {
    auto guest = spec->Translate({.container_id = "c", .bundle = "/b", .share_prefix = "c0"});
    if (guest.has_value()) {
      WV_CHECK(oci::Spec::Parse(guest->config_json).has_value());
    }
  }
  std::vector<std::string> notes;
  static_cast<void>(oci::TranslateProcess(text, true, &notes));
  static_cast<void>(oci::TranslateResources(text, &notes));
  return 0;
}
