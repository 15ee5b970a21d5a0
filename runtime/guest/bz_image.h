// guest/bz_image.h — the compressed kernel inside of an x86 boot image (vmlinuz).
// Spec:    Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header"; payload_offset since protocol 2.08.
// Errors:  INVALID_ARGUMENT: not such an image, or one whose fields contradict each other; DATA_LOSS: the payload is damaged.
// Trust:   hostile: the kernel's own word for its unpacked size is the bound, and it has a bound itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "guest/unpack.h"

namespace wyvern::guest {

constexpr uint64_t kMaxKernel = 512U << 20U;  // unpacked; distribution kernels have about 60 MiB

struct BzImage {
  std::string_view payload;  // in the file; the stream without what follows it
  Compression compression = Compression::kGzip;
  uint32_t unpacked_size = 0;
  std::string release;  // "6.1.0-50-cloud-amd64"; empty: it does not say
};

bool IsBzImage(std::string_view file);
Result<BzImage> ParseBzImage(std::string_view file);

// The ELF kernel; not checked by itself.
Result<std::string> UnpackKernel(const BzImage& image);

}  // namespace wyvern::guest
