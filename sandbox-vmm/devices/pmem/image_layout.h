// pmem/image_layout.h — where several read-only images lie, one after the other, in one device.
// Shape:   each image begins at a multiple of kImageAlign from the start of the range, so that the
//          guest can map it with huge pages, and is padded to the next one; padding reads as zero.
//          Whoever maps the range (a memslot) keeps to this, and the guest finds an image by its
//          offset: as a partition whose table is an image of its own before it, as an extra device of
//          an EROFS by its mapped block, or by a loop device.
// Units:   bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"

namespace wyvern::devices {

inline constexpr uint64_t kImageAlign = uint64_t{2} << 20;

// Each is two regions of guest memory at most, and a file and a region of every back-end of
// vhost-user and vhost-net: those take 64 with RAM and what is plugged.
inline constexpr size_t kMaxImages = 16;

struct ImagePlace {
  uint64_t offset = 0;
  uint64_t size = 0;     // of the image
  uint64_t padding = 0;  // behind it
};

struct ImageLayout {
  std::vector<ImagePlace> images;
  uint64_t size = 0;  // of all, a multiple of kImageAlign
};

// In the order given. INVALID_ARGUMENT: no image, too many, or an empty one. RESOURCE_EXHAUSTED: more
// than `limit` bytes in all.
Result<ImageLayout> LayOutImages(std::span<const uint64_t> sizes, uint64_t limit);

}  // namespace wyvern::devices
