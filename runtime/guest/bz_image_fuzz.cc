// Any bytes as a boot image: refused, or unpacked to exactly what it says, within a bound.
#include "base/check.h"
#include "guest/bz_image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern::guest;
  const auto image = ParseBzImage(std::string_view(reinterpret_cast<const char*>(data), size));
  if (image && image->unpacked_size <= (1U << 20U)) {
    const auto kernel = UnpackKernel(*image);
    WV_CHECK(!kernel || kernel->size() == image->unpacked_size);
  }
  return 0;
}
