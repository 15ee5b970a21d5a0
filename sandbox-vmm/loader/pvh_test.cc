#include "loader/pvh.h"

#include <cstring>
#include <string_view>

#include <gtest/gtest.h>

namespace wyvern::loader {
namespace {

template <typename T>
T Load(const std::vector<std::byte>& bytes, uint64_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

TEST(StartInfoTest, LongCommandLineIsRefusedWithItsLimit) {
  StartInfo info;
  info.command_line = std::string(kMaxCommandLine, 'x');
  auto block = BuildStartInfo(info, 0x10000);
  ASSERT_FALSE(block.has_value());
  EXPECT_NE(block.error().message().find("2047"), std::string::npos);
  info.command_line.pop_back();
  EXPECT_TRUE(BuildStartInfo(info, 0x10000).has_value());
}

TEST(StartInfoTest, NulInTheCommandLineIsRefused) {
  StartInfo info;
  info.command_line = std::string("a\0b", 3);
  EXPECT_EQ(BuildStartInfo(info, 0x10000).error().code(), Code::kInvalidArgument);
}

TEST(StartInfoTest, PointersLeadToTheParts) {
  constexpr uint64_t kAt = 0x10000;
  StartInfo info;
  info.command_line = "console=ttyS0";
  info.memory = {{.start = 0, .size = 0xa0000}, {.start = 0x100000, .size = 0x1000000}};
  info.modules = {{.address = 0x800000, .size = 12345}};
  info.rsdp = 0xe0000;
  auto block = BuildStartInfo(info, kAt);
  ASSERT_TRUE(block.has_value());
  const auto& b = *block;
  EXPECT_EQ(Load<uint32_t>(b, 0), 0x336ec578U);
  EXPECT_EQ(Load<uint32_t>(b, 4), 1U);
  EXPECT_EQ(Load<uint32_t>(b, 12), 1U);
  const uint64_t module = Load<uint64_t>(b, 16) - kAt;
  EXPECT_EQ(Load<uint64_t>(b, module), 0x800000U);
  EXPECT_EQ(Load<uint64_t>(b, module + 8), 12345U);
  const uint64_t text = Load<uint64_t>(b, 24) - kAt;
  EXPECT_STREQ(reinterpret_cast<const char*>(b.data() + text), "console=ttyS0");
  EXPECT_EQ(Load<uint64_t>(b, 32), 0xe0000U);
  const uint64_t map = Load<uint64_t>(b, 40) - kAt;
  EXPECT_EQ(Load<uint32_t>(b, 48), 2U);
  EXPECT_EQ(Load<uint64_t>(b, map + 24), 0x100000U);
  EXPECT_EQ(Load<uint32_t>(b, map + 40), 1U);
}

TEST(StartInfoTest, WithoutModulesThereIsNoList) {
  auto block = BuildStartInfo(StartInfo{}, 0x10000);
  ASSERT_TRUE(block.has_value());
  EXPECT_EQ(Load<uint32_t>(*block, 12), 0U);
  EXPECT_EQ(Load<uint64_t>(*block, 16), 0U);
}

}  // namespace
}  // namespace wyvern::loader
