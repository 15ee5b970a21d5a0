// What containerd (or whoever) writes to the stdin of `start`.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "bootstrap/dialect.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto input = wyvern::shim::DecodeStartInput(bytes, "abc", "k8s.io");
  (void)wyvern::shim::EncodeStartAnswer(input.dialect, input.socket_dir);
  return 0;
}
