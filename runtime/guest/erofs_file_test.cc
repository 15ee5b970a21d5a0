#include "guest/erofs_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "guest/testing/images.h"

namespace wyvern::guest {
namespace {

using testing::MakeErofs;
using testing::Put;

constexpr char kPath[] = "sbin/wyvern-agent";
constexpr size_t kFileInode = size_t{44} * 32;

Result<std::string> Read(const std::string& image, std::string_view path = kPath,
                         uint64_t limit = 1 << 20U) {
  const UniqueFd file = *MakeMemfd("image", 0);
  EXPECT_TRUE(WriteAll(file, image));
  return ReadErofsFile(file, path, limit);
}

TEST(ErofsFileTest, PlainBlocksAndInlineTail) {
  const std::string content = std::string(4096, 'a') + "the end";
  EXPECT_EQ(*Read(MakeErofs(content)), content);
  EXPECT_EQ(*Read(MakeErofs("short")), "short");
}

TEST(ErofsFileTest, WhatIsNotThere) {
  const std::string image = MakeErofs("x");
  for (const char* path : {"sbin/other", "etc/passwd", "sbin/wyvern-agent/x", "sbin", "", "sbi"}) {
    EXPECT_EQ(Read(image, path).error().code(), Code::kNotFound) << path;
  }
}

TEST(ErofsFileTest, EveryTruncationIsAnError) {
  const std::string image = MakeErofs(std::string(4096, 'a') + "the end");
  for (size_t size = 0; size < image.size(); size += 97) {
    EXPECT_FALSE(Read(image.substr(0, size))) << size;
  }
}

TEST(ErofsFileTest, DamagedFieldsAreErrors) {
  const std::string good = MakeErofs("x");
  std::string image = good;
  Put(image, 1024, Le32(1));
  EXPECT_EQ(Read(image).error().code(), Code::kDataLoss);
  image = good;
  image[1024 + 12] = 63;
  EXPECT_EQ(Read(image).error().code(), Code::kDataLoss);
  image = good;
  Put(image, 1024 + 40, Le32(0xffffffff));
  EXPECT_FALSE(Read(image));
  image = good;
  Put(image, kFileInode + 8, Le64(~uint64_t{0}));
  EXPECT_EQ(Read(image).error().code(), Code::kDataLoss);
  image = good;
  Put(image, kFileInode, Le16(3));  // compressed
  EXPECT_EQ(Read(image).error().code(), Code::kUnimplemented);
  image = good;
  Put(image, 4096 + 8, Le16(0xffff));  // the first name's offset is the number of entries
  EXPECT_FALSE(Read(image));
  image = good;
  Put(image, 4096 + 12 + 8, Le16(0));
  EXPECT_FALSE(Read(image));
}

TEST(ErofsFileTest, LimitHolds) {
  EXPECT_EQ(Read(MakeErofs("hello"), kPath, 4).error().code(), Code::kDataLoss);
}

}  // namespace
}  // namespace wyvern::guest
