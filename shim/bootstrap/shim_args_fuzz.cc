// Command lines: words separated by zero bytes; and the same bytes as a config.json.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "bootstrap/args.h"
#include "bootstrap/bundle.h"
#include "bootstrap/socket.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> argv;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\0', at), text.size());
    argv.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  if (const auto args = wyvern::shim::ParseArgs(argv); args) {
    (void)wyvern::shim::SocketPath("/s", args->address, args->ns, args->id);
  }
  (void)wyvern::shim::GroupOfSpec(text);
  return 0;
}
