// guest/unpack.h — one compressed stream to bytes: a kernel's payload, a module.
// Trust:   the data is hostile: what comes out is bounded, and one filter is applied once, whatever the result looks like.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace wyvern::guest {

// What kernels and modules come in (lib/decompress.c); kLz4 has both of its forms.
enum class Compression : uint8_t { kGzip, kXz, kZstd, kLz4, kLzma, kBzip2 };

// By the first bytes; nullopt: none of these.
std::optional<Compression> DetectCompression(std::string_view data);

// DATA_LOSS: damaged or cut short. RESOURCE_EXHAUSTED: more than `limit` bytes would come out, or it asks for a dictionary that no
// kernel has.
Result<std::string> Unpack(std::string_view data, Compression compression, uint64_t limit);

}  // namespace wyvern::guest
