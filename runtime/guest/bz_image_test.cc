#include "guest/bz_image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "guest/testing/images.h"

namespace wyvern::guest {
namespace {

using testing::Compress;
using ::testing::HasSubstr;
using testing::MakeBzImage;
using testing::MakeKernel;
using testing::Put;

std::string BzErrorOf(const std::string& file) {
  const auto image = ParseBzImage(file);
  if (!image) {
    return image.error().message();
  }
  const auto kernel = UnpackKernel(*image);
  return kernel ? "(no error)" : kernel.error().message();
}

std::string Good() {
  const std::string kernel = MakeKernel("6.1.0-test");
  return MakeBzImage(Compress(kernel, ARCHIVE_FILTER_XZ), static_cast<uint32_t>(kernel.size()),
                     true);
}

TEST(BzImageTest, OtherFilesAreNone) {
  EXPECT_THAT(BzErrorOf(""), HasSubstr("not a boot image"));
  EXPECT_THAT(BzErrorOf(std::string(0x24f, '\0')), HasSubstr("not a boot image"));
  EXPECT_THAT(BzErrorOf(std::string(10000, 'x')), HasSubstr("not a boot image"));
}

TEST(BzImageTest, EveryTruncationIsAnError) {
  const std::string good = Good();
  EXPECT_EQ(BzErrorOf(good), "(no error)");
  for (size_t size = 0; size < good.size() - 5; size += 7) {
    EXPECT_NE(BzErrorOf(good.substr(0, size)), "(no error)") << size;
  }
}

TEST(BzImageTest, FieldsBeyondTheFileAreErrors) {
  std::string file = Good();
  Put(file, 0x248, Le32(0xffffffff));
  EXPECT_THAT(BzErrorOf(file), HasSubstr("its payload at"));
  file = Good();
  Put(file, 0x24c, Le32(0xffffffff));
  EXPECT_THAT(BzErrorOf(file), HasSubstr("its payload at"));
  Put(file, 0x24c, Le32(4));
  EXPECT_THAT(BzErrorOf(file), HasSubstr("no payload"));
  file = Good();
  Put(file, 0x206, Le16(0x207));
  EXPECT_THAT(BzErrorOf(file), HasSubstr("boot protocol 2.07"));
  file = Good();
  Put(file, 0x248, Le32(0));
  EXPECT_THAT(BzErrorOf(file), HasSubstr("none of the formats"));
}

TEST(BzImageTest, WhatUnpacksToMoreThanItSaysIsCutOff) {
  const std::string bomb = Compress(std::string(8U << 20U, '\0'), ARCHIVE_FILTER_XZ);
  EXPECT_THAT(BzErrorOf(MakeBzImage(bomb, 4096, true)), HasSubstr("more than 4096 bytes"));
  EXPECT_THAT(BzErrorOf(MakeBzImage(bomb, 0xffffffff, true)), HasSubstr("more than the"));
}

TEST(BzImageTest, WhatUnpacksToLessIsDamaged) {
  const std::string payload = Compress("abc", ARCHIVE_FILTER_XZ);
  EXPECT_THAT(BzErrorOf(MakeBzImage(payload, 4, true)), HasSubstr("3 bytes instead of 4"));
}

TEST(BzImageTest, DamagedPayloadIsAnError) {
  std::string file = Good();
  file[file.size() - 60] ^= 1;
  EXPECT_THAT(BzErrorOf(file), HasSubstr("damaged"));
}

TEST(BzImageTest, ReleaseThatIsNoTextIsNotThere) {
  std::string file = Good();
  Put(file, 0x20e, Le16(0xffff));
  EXPECT_EQ(ParseBzImage(file)->release, "");
  Put(file, 0x20e, Le16(0));
  EXPECT_EQ(ParseBzImage(file)->release, "");
  file = Good();
  file[0x602] = '\n';
  EXPECT_EQ(ParseBzImage(file)->release, "");
}

class CompressionTest : public ::testing::TestWithParam<int> {};

TEST_P(CompressionTest, KernelComesOutAsItWentIn) {
  const std::string kernel = MakeKernel("6.1.0-test");
  const bool tail = GetParam() != ARCHIVE_FILTER_GZIP;
  const std::string file =
      MakeBzImage(Compress(kernel, GetParam()), static_cast<uint32_t>(kernel.size()), tail);
  const auto image = ParseBzImage(file);
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(image->release, "6.1.0-test");
  const auto unpacked = UnpackKernel(*image);
  ASSERT_TRUE(unpacked) << unpacked.error().message();
  EXPECT_EQ(*unpacked, kernel);
}

INSTANTIATE_TEST_SUITE_P(All, CompressionTest,
                         ::testing::Values(ARCHIVE_FILTER_GZIP, ARCHIVE_FILTER_XZ,
                                           ARCHIVE_FILTER_ZSTD, ARCHIVE_FILTER_LZ4,
                                           ARCHIVE_FILTER_LZMA, ARCHIVE_FILTER_BZIP2));

// What "lz4 -l" writes and kernels use: magic, then blocks of 8 MiB with their packed sizes.
TEST(UnpackTest, OldFormOfLz4) {
  const std::string block = std::string("\x50hello", 6);  // five literals
  const std::string stream = std::string("\x02\x21\x4c\x18", 4) + testing::Bytes(Le32(6)) + block;
  EXPECT_EQ(*Unpack(stream, Compression::kLz4, 100), "hello");
}

TEST(UnpackTest, OneLayerOnly) {
  const std::string inner = Compress("abc", ARCHIVE_FILTER_GZIP);
  EXPECT_EQ(*Unpack(Compress(inner, ARCHIVE_FILTER_GZIP), Compression::kGzip, 1000), inner);
}

TEST(UnpackTest, LimitIsExact) {
  const std::string data(5000, 'a');
  for (const auto& [filter, compression] : {std::pair(ARCHIVE_FILTER_ZSTD, Compression::kZstd),
                                            std::pair(ARCHIVE_FILTER_XZ, Compression::kXz)}) {
    const std::string packed = Compress(data, filter);
    EXPECT_EQ(*Unpack(packed, compression, 5000), data);
    EXPECT_EQ(Unpack(packed, compression, 4999).error().code(), Code::kResourceExhausted);
  }
}

TEST(UnpackTest, DictionaryOf4GiBIsRefused) {
  std::string packed = Compress("abc", ARCHIVE_FILTER_LZMA);
  Put(packed, 1, Le32(0xfffffffe));
  EXPECT_EQ(Unpack(packed, Compression::kLzma, 100).error().code(), Code::kResourceExhausted);
}

}  // namespace
}  // namespace wyvern::guest
