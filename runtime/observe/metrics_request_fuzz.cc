// A request on a metrics socket: any bytes.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "observe/http_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)wyvern::observe::IsWholeHead(bytes);
  if (const auto request = wyvern::observe::ParseRequestHead(bytes); request) {
    WV_CHECK(request->path.starts_with('/') && !request->method.empty());
    WV_CHECK(request->path.find_first_of(" \r\n?") == std::string::npos);
  }
  return 0;
}
