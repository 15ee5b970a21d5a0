#include "ttrpc/frame.h"

#include <gtest/gtest.h>

#include <vector>

#include "ttrpc/testing/harness.h"

namespace wyvern::ttrpc {
namespace {

struct Collector {
  std::vector<Frame> frames;
  std::vector<FrameHeader> oversize;

  FrameParser::Sink Sink() {
    return {.on_frame =
                [this](const FrameHeader& header, std::string data) {
                  frames.push_back({header, std::move(data)});
                },
            .on_oversize = [this](const FrameHeader& header) { oversize.push_back(header); }};
  }
};

void Feed(FrameParser& parser, const std::string& bytes) {
  parser.Feed(std::as_bytes(std::span(bytes)));
}

TEST(FrameTest, HeaderIsTenBytesBigEndian) {
  const auto bytes =
      EncodeHeader({.length = 0x01020304, .stream_id = 0x0a0b0c0d, .type = 3, .flags = 5});
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
            Hex("01020304 0a0b0c0d 03 05"));
  EXPECT_EQ(DecodeHeader(bytes),
            (FrameHeader{.length = 0x01020304, .stream_id = 0x0a0b0c0d, .type = 3, .flags = 5}));
}

TEST(FrameTest, BytesOneByOneGiveTheSameFrames) {
  Collector collector;
  FrameParser parser(collector.Sink());
  const std::string stream = EncodeFrame(1, FrameType::kRequest, 0, "hello") +
                             EncodeFrame(3, FrameType::kData, kFlagNoData, "") +
                             EncodeFrame(5, FrameType::kData, 0, std::string(70000, 'x'));
  for (const char byte : stream) {
    Feed(parser, std::string(1, byte));
  }
  ASSERT_EQ(collector.frames.size(), 3U);
  EXPECT_EQ(collector.frames[0].data, "hello");
  EXPECT_EQ(collector.frames[1].header.flags, kFlagNoData);
  EXPECT_EQ(collector.frames[2].data.size(), 70000U);
  EXPECT_TRUE(parser.AtFrameBoundary());
}

TEST(FrameTest, OversizeFrameIsSkippedAndTheNextOneRead) {
  Collector collector;
  FrameParser parser(collector.Sink());
  const auto header = EncodeHeader({.length = kMaxData + 1, .stream_id = 7, .type = 1, .flags = 0});
  Feed(parser, std::string(reinterpret_cast<const char*>(header.data()), header.size()));
  ASSERT_EQ(collector.oversize.size(), 1U);
  const std::string part(1 << 20, 'y');
  for (int i = 0; i < 4; ++i) {
    Feed(parser, part);
  }
  EXPECT_FALSE(parser.AtFrameBoundary());
  Feed(parser, "y" + EncodeFrame(9, FrameType::kRequest, 0, "after"));
  ASSERT_EQ(collector.frames.size(), 1U);
  EXPECT_EQ(collector.frames[0].data, "after");
}

TEST(FrameTest, FrameOfExactlyTheLimitPasses) {
  Collector collector;
  FrameParser parser(collector.Sink());
  Feed(parser, EncodeFrame(1, FrameType::kData, 0, std::string(kMaxData, 'z')));
  ASSERT_EQ(collector.frames.size(), 1U);
  EXPECT_EQ(collector.frames[0].data.size(), kMaxData);
  EXPECT_TRUE(collector.oversize.empty());
}

}  // namespace
}  // namespace wyvern::ttrpc
