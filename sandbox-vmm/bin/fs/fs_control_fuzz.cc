// Packets of the control socket, each line one.
#include <fcntl.h>

#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "fs/control.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;  // NOLINT(google-build-using-namespace): a harness
  fs::FileServerOptions options;
  options.root = *Open("/", O_RDONLY | O_DIRECTORY);
  options.exports = true;
  const auto server = *fs::FileServer::Create(std::move(options));
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string answer = fs_process::Answer(*server, rest.substr(0, end));
    const std::string_view said = std::string_view(answer).substr(answer.find(' ') + 1);
    WV_CHECK(said.starts_with("ok") || said.starts_with("error "));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return 0;
}
