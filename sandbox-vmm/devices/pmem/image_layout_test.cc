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
            Code::kResourceExhausted);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 2>{1, 1}, 2 * kImageAlign - 1), Code::kResourceExhausted);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 2>{1, 1}, 0), Code::kResourceExhausted);
}

TEST(ImageLayoutTest, SumsOfSizesDoNotWrap) {
  constexpr uint64_t kTop = ~uint64_t{0};
  constexpr uint64_t kHalf = uint64_t{1} << 63U;
  EXPECT_EQ(CodeOf(std::array<uint64_t, 1>{kTop}, kTop), Code::kResourceExhausted);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 2>{kTop - kImageAlign + 1, 1}, kTop),
            Code::kResourceExhausted);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 1>{kHalf}, kLimit), Code::kResourceExhausted);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 2>{kHalf, kHalf}, kTop), Code::kResourceExhausted);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 2>{kHalf - 1, kHalf - 1}, kTop), Code::kResourceExhausted);
  EXPECT_EQ(CodeOf(std::array<uint64_t, 2>{kHalf, kHalf - kImageAlign}, kTop), Code::kOk);
}

TEST(ImageLayoutTest, TooManyImagesAreRefused) {
  std::vector<uint64_t> sizes(kMaxImages, 1);
  EXPECT_EQ(CodeOf(sizes, kLimit), Code::kOk);
  sizes.push_back(1);
  EXPECT_EQ(CodeOf(sizes, kLimit), Code::kInvalidArgument);
}

TEST(ImageLayoutTest, ErrorsNameTheImage) {
  const auto empty = LayOutImages(std::array<uint64_t, 3>{1, 0, 1}, kLimit);
  ASSERT_FALSE(empty);
  EXPECT_EQ(empty.error().message(), "image 2 of 3 is empty");
  const auto large = LayOutImages(std::array<uint64_t, 3>{1, 1, kLimit}, 3 * kImageAlign);
  ASSERT_FALSE(large);
  EXPECT_EQ(large.error().message(),
            "image 3 of 3: its 1099511627776 bytes do not fit in the 2 MiB left of the guest's "
            "persistent memory window");
}

}  // namespace
}  // namespace wyvern::devices
