#include "guest/bz_image.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/endian.h"

namespace wyvern::guest {

namespace {

// Offsets in the file, by the names of boot.rst.
constexpr size_t kSetupSects = 0x1f1;
constexpr size_t kMagicOffset = 0x202;
constexpr size_t kVersion = 0x206;
constexpr size_t kKernelVersion = 0x20e;
constexpr size_t kPayloadOffset = 0x248;
constexpr size_t kPayloadLength = 0x24c;
constexpr size_t kHeaderEnd = 0x250;

constexpr uint16_t kFirstWithPayload = 0x208;
constexpr size_t kSector = 512;
constexpr size_t kSizeField = 4;  // at the end of the payload, little-endian
constexpr size_t kMaxRelease = 64;

template <typename T>
auto Load(std::string_view file, size_t offset) {
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(T));
  return value.value();
}

tl::unexpected<Error> Bad(const std::string& what) {
  return Fail(Code::kInvalidArgument, "the boot image is damaged: " + what);
}

// The text is "6.1.0-50-cloud-amd64 (builder@host) #1 SMP …", ended by NUL.
std::string Release(std::string_view file) {
  const size_t pointer = Load<Le16>(file, kKernelVersion);
  if (pointer == 0 || pointer + kSector >= file.size()) {
    return {};
  }
  const std::string_view text = file.substr(pointer + kSector, kMaxRelease + 1);
  const size_t end = text.find_first_of(std::string_view(" \0", 2));
  if (end == std::string_view::npos ||
      !std::ranges::all_of(text.substr(0, end), [](char c) { return c > ' ' && c < 0x7f; })) {
    return {};
  }
  return std::string(text.substr(0, end));
}

}  // namespace

bool IsBzImage(std::string_view file) {
  return file.size() >= kHeaderEnd && file.substr(kMagicOffset).starts_with("HdrS");
}

Result<BzImage> ParseBzImage(std::string_view file) {
  if (!IsBzImage(file)) {
    return Fail(Code::kInvalidArgument, "it is not a boot image (no HdrS)");
  }
  const uint16_t version = Load<Le16>(file, kVersion);
  if (version < kFirstWithPayload) {
    return Bad(fmt::format("boot protocol {}.{:02}, at least 2.08 is needed", version >> 8U,
                           version & 0xffU));
  }
  const auto sectors = static_cast<uint8_t>(file[kSetupSects]);
  const uint64_t setup = ((sectors == 0 ? 4 : sectors) + uint64_t{1}) * kSector;
  const uint64_t offset = setup + Load<Le32>(file, kPayloadOffset);
  const uint64_t length = Load<Le32>(file, kPayloadLength);
  if (length <= kSizeField) {
    return Bad("it has no payload");
  }
  if (length > file.size() || offset > file.size() - length) {
    return Bad(
        fmt::format("it ends after {} bytes, its payload at {}", file.size(), offset + length));
  }
  BzImage image;
  image.payload = file.substr(offset, length);
  const auto compression = DetectCompression(image.payload);
  if (!compression) {
    return Bad("its payload is in none of the formats gzip, xz, zstd, lz4, lzma, bzip2");
  }
  image.compression = *compression;
  image.unpacked_size = Load<Le32>(image.payload, length - kSizeField);
  if (image.unpacked_size > kMaxKernel) {
    return Bad(fmt::format("{} bytes unpacked, more than the {} that a kernel may have",
                           image.unpacked_size, kMaxKernel));
  }
  // For gzip the size is part of the stream, for all others the kernel's build put it behind.
  if (image.compression != Compression::kGzip) {
    image.payload.remove_suffix(kSizeField);
  }
  image.release = Release(file);
  return image;
}

Result<std::string> UnpackKernel(const BzImage& image) {
  WV_TRY_CONTEXT(std::string kernel, Unpack(image.payload, image.compression, image.unpacked_size),
                 "the kernel");
  if (kernel.size() != image.unpacked_size) {
    return Fail(Code::kDataLoss, fmt::format("the kernel unpacks to {} bytes instead of {}",
                                             kernel.size(), image.unpacked_size));
  }
  return kernel;
}

}  // namespace wyvern::guest
