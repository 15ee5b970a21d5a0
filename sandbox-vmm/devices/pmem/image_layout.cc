#include "pmem/image_layout.h"

#include <fmt/format.h>

namespace wyvern::devices {

Result<ImageLayout> LayOutImages(std::span<const uint64_t> sizes, uint64_t limit) {
  if (sizes.empty() || sizes.size() > kMaxImages) {
    return Fail(
        Code::kInvalidArgument,
        fmt::format("persistent memory holds 1 to {} images, not {}", kMaxImages, sizes.size()));
  }
  ImageLayout layout;
  for (const uint64_t size : sizes) {
    const auto which = [&] {
      return fmt::format("image {} of {}", layout.images.size() + 1, sizes.size());
    };
    if (size == 0) {
      return Fail(Code::kInvalidArgument, which() + " is empty");
    }
    const uint64_t past = size % kImageAlign;
    const uint64_t padding = past == 0 ? 0 : kImageAlign - past;
    const uint64_t left = limit - layout.size;
    if (size > left || padding > left - size) {
      return Fail(Code::kResourceExhausted,
                  fmt::format("{}: its {} bytes do not fit in the {} MiB left of the guest's "
                              "persistent memory window",
                              which(), size, left >> 20U));
    }
    layout.images.push_back({.offset = layout.size, .size = size, .padding = padding});
    layout.size += size + padding;
  }
  return layout;
}

}  // namespace wyvern::devices
