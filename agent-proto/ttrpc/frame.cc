#include "ttrpc/frame.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/endian.h"

namespace wyvern::ttrpc {
namespace {

struct WireHeader {
  Be32 length;
  Be32 stream_id;
  uint8_t type = 0;
  uint8_t flags = 0;
};

static_assert(sizeof(WireHeader) == kHeaderSize);

}  // namespace

std::array<std::byte, kHeaderSize> EncodeHeader(const FrameHeader& header) {
  WireHeader wire;
  wire.length = header.length;
  wire.stream_id = header.stream_id;
  wire.type = header.type;
  wire.flags = header.flags;
  std::array<std::byte, kHeaderSize> bytes{};
  std::memcpy(bytes.data(), &wire, kHeaderSize);
  return bytes;
}

FrameHeader DecodeHeader(std::span<const std::byte, kHeaderSize> bytes) {
  WireHeader wire;
  std::memcpy(&wire, bytes.data(), kHeaderSize);
  return {
      .length = wire.length, .stream_id = wire.stream_id, .type = wire.type, .flags = wire.flags};
}

std::string EncodeFrame(uint32_t stream_id, FrameType type, uint8_t flags, std::string_view data) {
  WV_CHECK(data.size() <= kMaxData);
  const auto header = EncodeHeader({.length = static_cast<uint32_t>(data.size()),
                                    .stream_id = stream_id,
                                    .type = static_cast<uint8_t>(type),
                                    .flags = flags});
  std::string frame;
  frame.reserve(kHeaderSize + data.size());
  frame.append(reinterpret_cast<const char*>(header.data()), header.size());
  frame.append(data);
  return frame;
}

void FrameParser::Feed(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (header_have_ < kHeaderSize) {
      const size_t count = std::min(kHeaderSize - header_have_, bytes.size());
      std::memcpy(header_bytes_.data() + header_have_, bytes.data(), count);
      header_have_ += count;
      bytes = bytes.subspan(count);
      if (header_have_ == kHeaderSize) {
        HeaderDone();
      }
      continue;
    }
    if (skip_ > 0) {
      const size_t count = static_cast<size_t>(std::min<uint64_t>(skip_, bytes.size()));
      skip_ -= count;
      bytes = bytes.subspan(count);
      if (skip_ == 0) {
        header_have_ = 0;
      }
      continue;
    }
    const size_t count = std::min<size_t>(header_.length - data_.size(), bytes.size());
    data_.append(reinterpret_cast<const char*>(bytes.data()), count);
    bytes = bytes.subspan(count);
    if (data_.size() == header_.length) {
      FrameDone();
    }
  }
}

void FrameParser::HeaderDone() {
  header_ = DecodeHeader(header_bytes_);
  if (header_.length > kMaxData) {
    skip_ = header_.length;
    sink_.on_oversize(header_);
  } else if (header_.length == 0) {
    FrameDone();
  }
}

void FrameParser::FrameDone() {
  header_have_ = 0;
  sink_.on_frame(header_, std::exchange(data_, {}));
}

}  // namespace wyvern::ttrpc
