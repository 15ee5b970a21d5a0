// mountInfo.json of a direct volume, as anybody may have written it: what is taken can be mounted from a device, by words that are words.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "volume/direct_volumes.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern::runtime;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto volume = ParseDirectVolume(text);
  if (volume.has_value()) {
    WV_CHECK(volume->device.starts_with('/') && volume->device.find('\0') == std::string::npos);
    WV_CHECK(!volume->filesystem.empty());
    for (const std::string& option : volume->options) {
      WV_CHECK(!option.empty() && option.find(',') == std::string::npos);
    }
  }
  const auto key = DirectVolumeKey(text);
  WV_CHECK(!key.has_value() || (key->size() <= 255 && key->find('/') == std::string::npos &&
                                *key != "." && *key != ".."));
  return 0;
}
