// pmem/image_layout.h — where several read-only images lie, one after the other, in one device.
// Shape:   each image begins at a multiple of kImageAlign from the start of the range, so that the
//          guest can map it with huge pages, and is padded to the next one; padding reads as zero.
//          Whoever maps the range (a memslot) keeps to this, and the guest finds an image by its
//          offset (device mapper's linear target, a loop device, fsoffset).
// Units:   bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"

namespace wyvern::devices {

inline constexpr uint64_t kImageAlign = uint64_t{2} << 20;

struct ImagePlace {
  uint64_t offset = 0;
  uint64_t size = 0;     // of the image
  uint64_t padding = 0;  // behind it
};

struct ImageLayout {
  std::vector<ImagePlace> images;
  uint64_t size = 0;  // of all, a multiple of kImageAlign
};

// In the order given. INVALID_ARGUMENT: no image, or an empty one. OUT_OF_RANGE: more than `limit`
// bytes in all.
Result<ImageLayout> LayOutImages(std::span<const uint64_t> sizes, uint64_t limit);

}  // namespace wyvern::devices
