// Any bytes as a guest image that an agent is looked for in.
#include "base/check.h"
#include "guest/erofs_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;
  const auto file = MakeMemfd("fuzz", 0);
  WV_CHECK(file && WriteAll(*file, std::string_view(reinterpret_cast<const char*>(data), size)));
  (void)guest::ReadErofsFile(*file, "sbin/wyvern-agent", 1U << 20U);
  return 0;
}
