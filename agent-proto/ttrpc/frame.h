// ttrpc/frame.h — the frames of ttrpc: a 10-byte header and data.
// Spec:    containerd/ttrpc PROTOCOL.md. Header: u32 BE data length, u32 BE stream id, u8 type, u8
// flags. Units:   lengths in bytes; the header is not counted. Errors:  a frame longer than
// kMaxData is skipped and reported, as the protocol wants; nothing here fails. Threads: a value,
// used by one thread.   Trust: the bytes are the peer's; memory grows with what arrived, never with
// what a header claims.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace wyvern::ttrpc {

inline constexpr size_t kHeaderSize = 10;
inline constexpr size_t kMaxData = 4U << 20;
// What a connection reads at once.
inline constexpr size_t kReadSize = 64U << 10;

enum class FrameType : uint8_t { kRequest = 1, kResponse = 2, kData = 3 };

inline constexpr uint8_t kFlagRemoteClosed = 0x01;  // the sender sends no more data on this stream
inline constexpr uint8_t kFlagRemoteOpen = 0x02;    // Request only: data frames follow
inline constexpr uint8_t kFlagNoData = 0x04;        // Data only: no message, not even an empty one

struct FrameHeader {
  uint32_t length = 0;
  uint32_t stream_id = 0;
  uint8_t type = 0;  // a FrameType, or what the peer invented
  uint8_t flags = 0;

  bool operator==(const FrameHeader&) const = default;
};

std::array<std::byte, kHeaderSize> EncodeHeader(const FrameHeader& header);
FrameHeader DecodeHeader(std::span<const std::byte, kHeaderSize> bytes);
// Header and data in one string, ready to be sent. Preconditions: data.size() <= kMaxData.
std::string EncodeFrame(uint32_t stream_id, FrameType type, uint8_t flags, std::string_view data);

// Cuts a byte stream into frames.
class FrameParser {
 public:
  struct Sink {
    // A whole frame.
    std::function<void(const FrameHeader&, std::string data)> on_frame;
    // A frame whose data is longer than kMaxData; called when its header is complete, its data is
    // dropped.
    std::function<void(const FrameHeader&)> on_oversize;
  };

  explicit FrameParser(Sink sink) : sink_(std::move(sink)) {}

  // Callbacks are made from here, in the order of the stream.
  void Feed(std::span<const std::byte> bytes);

  // True when the last byte fed ended a frame: a stream that ends elsewhere was cut off.
  bool AtFrameBoundary() const { return header_have_ == 0; }

 private:
  void HeaderDone();
  void FrameDone();

  Sink sink_;
  std::array<std::byte, kHeaderSize> header_bytes_{};
  size_t header_have_ = 0;
  FrameHeader header_;
  std::string data_;
  uint64_t skip_ = 0;  // bytes of an oversize frame still to come
};

}  // namespace wyvern::ttrpc
