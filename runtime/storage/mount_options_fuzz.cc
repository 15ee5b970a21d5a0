// Options of a rootfs mount as a client may write them, one a line: what is not taken apart reaches the file system as it was written.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "storage/rootfs.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern::runtime;
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> options;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    options.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  const ParsedOptions overlay = ParseMountOptions(options, true);
  const ParsedOptions other = ParseMountOptions(options, false);
  WV_CHECK(overlay.flags == other.flags && overlay.data.size() <= other.data.size());
  WV_CHECK(other.data.size() <= size);
  WV_CHECK(other.lower_dirs.empty() && other.upper_dir.empty() && other.work_dir.empty());
  return 0;
}
