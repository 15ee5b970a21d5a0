#include "pmem/image_layout.h"

namespace wyvern::devices {

Result<ImageLayout> LayOutImages(std::span<const uint64_t> sizes, uint64_t limit) {
  if (sizes.empty()) {
    return Fail(Code::kInvalidArgument, "persistent memory without an image");
  }
  ImageLayout layout;
  for (const uint64_t size : sizes) {
    if (size == 0) {
      return Fail(Code::kInvalidArgument, "an image is empty");
    }
    const uint64_t past = size % kImageAlign;
    const uint64_t padding = past == 0 ? 0 : kImageAlign - past;
    const uint64_t left = limit - layout.size;
    if (size > left || padding > left - size) {
      return Fail(Code::kOutOfRange, "the images do not fit into the persistent memory's range");
    }
    layout.images.push_back({.offset = layout.size, .size = size, .padding = padding});
    layout.size += size + padding;
  }
  return layout;
}

}  // namespace wyvern::devices
