#include "guest/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>
#include <lzma.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "base/cleanup.h"

namespace wyvern::guest {

namespace {

constexpr size_t kChunk = 1U << 20U;
// Of a decoder of xz and lzma, whose data says how much it wants. Kernels are content with half of it.
constexpr uint64_t kMaxMemory = 256U << 20U;

struct Format {
  std::string_view magic;
  Compression compression;
  int filter;  // of libarchive; none: liblzma itself
};

constexpr std::array<Format, 7> kFormats = {{
    {std::string_view("\x1f\x8b", 2), Compression::kGzip, ARCHIVE_FILTER_GZIP},
    {std::string_view("\xfd\x37zXZ\0", 6), Compression::kXz, ARCHIVE_FILTER_NONE},
    {std::string_view("\x28\xb5\x2f\xfd", 4), Compression::kZstd, ARCHIVE_FILTER_ZSTD},
    {std::string_view("\x02\x21\x4c\x18", 4), Compression::kLz4, ARCHIVE_FILTER_LZ4},
    {std::string_view("\x04\x22\x4d\x18", 4), Compression::kLz4, ARCHIVE_FILTER_LZ4},
    {std::string_view("\x5d\0\0", 3), Compression::kLzma, ARCHIVE_FILTER_NONE},
    {std::string_view("BZh", 3), Compression::kBzip2, ARCHIVE_FILTER_BZIP2},
}};

struct ReadDeleter {
  void operator()(archive* reader) const { archive_read_free(reader); }
};

tl::unexpected<Error> BadStream(const char* reason) {
  return Fail(Code::kDataLoss,
              fmt::format("the compressed data is damaged or cut short ({})", reason));
}

tl::unexpected<Error> Damaged(archive* reader) {
  const char* text = archive_error_string(reader);
  return BadStream(text != nullptr ? text : "no reason given");
}

tl::unexpected<Error> TooLarge(uint64_t limit) {
  return Fail(Code::kResourceExhausted, fmt::format("it unpacks to more than {} bytes", limit));
}

// libarchive gives these decoders no bound on the memory that the data asks for.
Result<std::string> UnpackLzma(std::string_view data, bool alone, uint64_t limit) {
  lzma_stream stream = LZMA_STREAM_INIT;
  const Cleanup end([&stream] { lzma_end(&stream); });
  lzma_ret answer =
      alone ? lzma_alone_decoder(&stream, kMaxMemory) : lzma_stream_decoder(&stream, kMaxMemory, 0);
  stream.next_in = reinterpret_cast<const uint8_t*>(data.data());
  stream.avail_in = data.size();
  std::string out;
  while (answer == LZMA_OK && out.size() <= limit) {
    const size_t size = out.size();
    out.resize(std::min<uint64_t>(size + kChunk, limit + 1));
    stream.next_out = reinterpret_cast<uint8_t*>(out.data() + size);
    stream.avail_out = out.size() - size;
    answer = lzma_code(&stream, LZMA_FINISH);
    out.resize(out.size() - stream.avail_out);
  }
  if (out.size() > limit) {
    return TooLarge(limit);
  }
  if (answer == LZMA_MEMLIMIT_ERROR) {
    return Fail(Code::kResourceExhausted,
                fmt::format("it asks for more than {} bytes of memory to unpack it", kMaxMemory));
  }
  if (answer != LZMA_STREAM_END) {
    return BadStream("by the checks of its format");
  }
  return out;
}

}  // namespace

std::optional<Compression> DetectCompression(std::string_view data) {
  const auto* const found = std::ranges::find_if(
      kFormats, [data](const Format& format) { return data.starts_with(format.magic); });
  return found == kFormats.end() ? std::nullopt : std::optional(found->compression);
}

Result<std::string> Unpack(std::string_view data, Compression compression, uint64_t limit) {
  if (compression == Compression::kXz || compression == Compression::kLzma) {
    return UnpackLzma(data, compression == Compression::kLzma, limit);
  }
  const std::unique_ptr<archive, ReadDeleter> reader(archive_read_new());
  const int filter = std::ranges::find(kFormats, compression, &Format::compression)->filter;
  archive_read_support_format_raw(reader.get());
  // Not by what the data looks like: it would be looked at again after each layer.
  archive_entry* entry = nullptr;
  if (archive_read_append_filter(reader.get(), filter) != ARCHIVE_OK ||
      archive_read_open_memory(reader.get(), data.data(), data.size()) != ARCHIVE_OK ||
      archive_read_next_header(reader.get(), &entry) != ARCHIVE_OK) {
    return Damaged(reader.get());
  }
  std::string out;
  size_t size = 0;
  for (;;) {
    out.resize(std::min<uint64_t>(size + kChunk, limit + 1));
    const la_ssize_t got = archive_read_data(reader.get(), out.data() + size, out.size() - size);
    if (got < 0) {
      return Damaged(reader.get());
    }
    if (got == 0) {
      break;
    }
    size += static_cast<size_t>(got);
    if (size > limit) {
      return Fail(Code::kResourceExhausted, fmt::format("it unpacks to more than {} bytes", limit));
    }
  }
  out.resize(size);
  return out;
}

}  // namespace wyvern::guest
