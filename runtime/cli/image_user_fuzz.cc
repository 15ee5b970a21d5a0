// --user against an image's passwd and group of any content.
// Input:   user, zero byte, /etc/passwd, zero byte, /etc/group.
#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/fd.h"
#include "base/testing/fuzz_directory.h"
#include "cli/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;
  static const std::string root = [] {
    std::string made = MakeFuzzDirectory("user");
    WV_CHECK(mkdir((made + "/etc").c_str(), 0755) == 0);
    return made;
  }();
  std::string rest(reinterpret_cast<const char*>(data), size);
  const auto take = [&rest] {
    const size_t end = std::min(rest.find('\0'), rest.size());
    std::string part = rest.substr(0, end);
    rest.erase(0, end + 1);
    return part;
  };
  const std::string user = take();
  WV_CHECK(WriteFile(root + "/etc/passwd", take()).has_value());
  WV_CHECK(WriteFile(root + "/etc/group", rest).has_value());
  cli::Image image;
  image.layers = {root};
  (void)cli::ResolveUser(image, user);
  return 0;
}
