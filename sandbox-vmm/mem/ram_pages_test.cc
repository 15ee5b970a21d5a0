// What backs guest RAM: advice for transparent huge pages, and pages of the host's pool.
#include <linux/memfd.h>
#include <sys/mman.h>

#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "base/fd.h"
#include "mem/guest_memory.h"

namespace wyvern::mem {
namespace {

constexpr uint64_t kOneMiB = 1ULL << 20U;

std::vector<RegionSpec> Ram(UniqueFd fd, uint64_t size, RamPages pages) {
  std::vector<RegionSpec> specs;
  specs.push_back(
      {.start = Gpa{0}, .size = size, .fd = std::move(fd), .guest_ram = true, .pages = pages});
  return specs;
}

unsigned FlagsOf(RamPages pages) {
  return MFD_HUGETLB | (pages == RamPages::k1GiB ? MFD_HUGE_1GB : MFD_HUGE_2MB);
}

// The line "VmFlags:" of the mapping at `address`.
std::string MappingFlags(uint64_t address) {
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    uint64_t begin = 0;
    uint64_t end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      inside = address >= begin && address < end;
    } else if (inside && line.starts_with("VmFlags:")) {
      return line + " ";
    }
  }
  return "";
}

TEST(RamPagesTest, SmallOnesAreNeverMadeHuge) {
  for (const RamPages pages : {RamPages::kSmall, RamPages::kTransparent}) {
    const auto memory =
        GuestMemory::Create(Ram(*MakeMemfd("ram", 4 * kOneMiB), 4 * kOneMiB, pages));
    ASSERT_TRUE(memory.has_value()) << memory.error().message();
    const std::string flags = MappingFlags((*memory)->regions()[0].host_address);
    if (flags.find(" hg ") == std::string::npos && flags.find(" nh ") == std::string::npos) {
      GTEST_SKIP() << "a kernel without transparent huge pages";
    }
    EXPECT_EQ(flags.find(" nh ") != std::string::npos, pages == RamPages::kSmall) << flags;
  }
}

TEST(RamPagesTest, SizesAreThoseOfTheirNames) {
  EXPECT_EQ(PageBytes(RamPages::kTransparent), 4096U);
  EXPECT_EQ(PageBytes(RamPages::kSmall), 4096U);
  EXPECT_EQ(PageBytes(RamPages::k2MiB), 2 * kOneMiB);
  EXPECT_EQ(PageBytes(RamPages::k1GiB), 1024 * kOneMiB);
}

TEST(RamPagesTest, PagesOfThePoolAreAMemfdInWholeOnes) {
  EXPECT_EQ(GuestMemory::Create(Ram(UniqueFd(), 2 * kOneMiB, RamPages::k2MiB)).error().code(),
            Code::kInvalidArgument);
  EXPECT_EQ(GuestMemory::Create(Ram(*MakeMemfd("ram", 4 * kOneMiB), kOneMiB, RamPages::k2MiB))
                .error()
                .code(),
            Code::kInvalidArgument);
}

class PoolPagesTest : public ::testing::TestWithParam<RamPages> {
 protected:
  // Or says why not.
  Result<std::shared_ptr<const GuestMemory>> Make(uint64_t pages) {
    const uint64_t size = pages * PageBytes(GetParam());
    WV_TRY(UniqueFd file, MakeMemfd("ram", size, FlagsOf(GetParam())));
    return GuestMemory::Create(Ram(std::move(file), size, GetParam()));
  }
};

// Now, not as SIGBUS when the guest touches it.
TEST_P(PoolPagesTest, WhatThePoolHasNotIsAnErrorAtOnce) {
  if (auto file = MakeMemfd("ram", 0, FlagsOf(GetParam())); !file) {
    GTEST_SKIP() << "this host has no such pages: " << file.error().message();
  }
  // More than pools have, and little enough to be addresses under ThreadSanitizer.
  const auto memory = Make((1ULL << 39U) / PageBytes(GetParam()));
  ASSERT_FALSE(memory.has_value());
  EXPECT_EQ(memory.error().code(), Code::kResourceExhausted) << memory.error().message();
  EXPECT_NE(memory.error().message().find("free huge pages of"), std::string::npos);
}

TEST_P(PoolPagesTest, TheyAreReservedAndKept) {
  auto memory = Make(2);
  if (!memory) {
    GTEST_SKIP() << "two such pages are not free: " << memory.error().message();
  }
  ASSERT_TRUE((*memory)->Write(Gpa{64}, 'g').has_value());
  EXPECT_EQ((*memory)->FreeRange(Gpa{0}, PageBytes(GetParam())).error(), MemFault::kHostRefused);
  EXPECT_EQ((*memory)->Read<char>(Gpa{64}).value(), 'g');
  EXPECT_EQ((*memory)->regions()[0].host_address % PageBytes(GetParam()), 0U);
}

INSTANTIATE_TEST_SUITE_P(Memory, PoolPagesTest, ::testing::Values(RamPages::k2MiB, RamPages::k1GiB),
                         [](const auto& info) {
                           return std::to_string(PageBytes(info.param) >> 20U) + "MiB";
                         });

}  // namespace
}  // namespace wyvern::mem
