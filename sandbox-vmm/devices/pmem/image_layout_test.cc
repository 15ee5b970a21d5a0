#include "pmem/image_layout.h"

#include <gtest/gtest.h>

#include <array>

namespace wyvern::devices {
namespace {

constexpr uint64_t kLimit = uint64_t{1} << 40;

Code CodeOf(std::span<const uint64_t> sizes, uint64_t limit) {
  const auto layout = LayOutImages(sizes, limit);
  return layout ? Code::kOk : layout.error().code();
}

TEST(ImageLayoutTest, ImagesFollowEachOtherWithPaddingBetween) {
  const auto layout =
      LayOutImages(std::array<uint64_t, 4>{1, kImageAlign, kImageAlign + 4096, 5}, kLimit);
  ASSERT_TRUE(layout);
  ASSERT_EQ(layout->images.size(), 4U);
  EXPECT_EQ(layout->images[0].offset, 0U);
  EXPECT_EQ(layout->images[0].padding, kImageAlign - 1);
  EXPECT_EQ(layout->images[1].offset, kImageAlign);
  EXPECT_EQ(layout->images[1].padding, 0U);
  EXPECT_EQ(layout->images[2].offset, 2 * kImageAlign);
  EXPECT_EQ(layout->images[2].padding, kImageAlign - 4096);
  EXPECT_EQ(layout->images[3].offset, 4 * kImageAlign);
  EXPECT_EQ(layout->images[3].size, 5U);
  EXPECT_EQ(layout->size, 5 * kImageAlign);
}

TEST(ImageLayoutTest, WhatDoesNotFitOrIsNothingIsRefused) {
  EXPECT_EQ(CodeOf({}, kLimit), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 2>{4096, 0}, kLimit), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 1>{kImageAlign}, kImageAlign), Code::kOk);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 1>{kImageAlign + 1}, 2 * kImageAlign - 1),
            Code::kOutOfRange);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 2>{1, 1}, 2 * kImageAlign - 1), Code::kOutOfRange);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 1>{~uint64_t{0}}, ~uint64_t{0}), Code::kOutOfRange);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 2>{~uint64_t{0} - kImageAlign + 1, 1}, ~uint64_t{0}),
            Code::kOutOfRange);
}

}  // namespace
}  // namespace wyvern::devices
