#include "balloon/page_ranges.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

namespace wyvern::devices {
namespace {

constexpr uint64_t kRegion = uint64_t{4} << 20U;
constexpr uint32_t kRegionPages = static_cast<uint32_t>(kRegion / kBalloonPage);

// RAM at 0 and 4 MiB (adjacent), an image at 8 MiB, nothing at 12 MiB, RAM at 16 MiB.
class PageRangesTest : public ::testing::Test {
 protected:
  PageRangesTest() {
    std::vector<mem::RegionSpec> specs;
    for (const uint64_t start : {uint64_t{0}, kRegion, 2 * kRegion, 4 * kRegion}) {
      mem::RegionSpec& spec = specs.emplace_back();
      spec.start = mem::Gpa{start};
      spec.size = kRegion;
      spec.guest_ram = start != 2 * kRegion;
      spec.read_only = !spec.guest_ram;
    }
    memory_ = *mem::GuestMemory::Create(std::move(specs));
    for (const uint64_t start : {uint64_t{0}, kRegion, 4 * kRegion}) {
      for (uint64_t at = start; at < start + kRegion; at += kBalloonPage) {
        EXPECT_TRUE(memory_->Write<char>(mem::Gpa{at}, 'g'));
      }
    }
  }

  FreedPages Free(std::vector<uint32_t> pages) {
    FreedPages freed;
    FreePages(*memory_, pages, &freed);
    return freed;
  }

  bool Freed(uint32_t page) const {
    return memory_->Read<char>(mem::Gpa{page * kBalloonPage}).value() == 0;
  }

  std::shared_ptr<const mem::GuestMemory> memory_;
};

TEST_F(PageRangesTest, PagesInARowAreOneHostCallInAnyOrder) {
  std::vector<uint32_t> pages(256);
  std::iota(pages.begin(), pages.end(), 100);
  std::ranges::reverse(pages);
  std::swap(pages[3], pages[200]);
  const FreedPages freed = Free(pages);
  EXPECT_EQ(freed.host_calls, 1U);
  EXPECT_EQ(freed.pages, 256U);
  EXPECT_FALSE(Freed(99));
  EXPECT_TRUE(Freed(100));
  EXPECT_TRUE(Freed(355));
  EXPECT_FALSE(Freed(356));
}

TEST_F(PageRangesTest, ScatteredPagesAreACallEach) {
  std::vector<uint32_t> pages(256);
  std::ranges::generate(pages, [n = uint32_t{0}]() mutable { return n += 2; });
  const FreedPages freed = Free(pages);
  EXPECT_EQ(freed.host_calls, 256U);
  EXPECT_EQ(freed.pages, 256U);
  EXPECT_FALSE(Freed(3));
}

TEST_F(PageRangesTest, RepeatedPagesAreFreedOnce) {
  const FreedPages freed = Free(std::vector<uint32_t>(4096, 7));
  EXPECT_EQ(freed.host_calls, 1U);
  EXPECT_EQ(freed.pages, 1U);
  EXPECT_TRUE(Freed(7));
  EXPECT_FALSE(Freed(6));
  EXPECT_FALSE(Freed(8));
}

TEST_F(PageRangesTest, ARunOverAdjacentRegionsIsACallForEach) {
  const FreedPages freed = Free({kRegionPages - 1, kRegionPages});
  EXPECT_EQ(freed.host_calls, 2U);
  EXPECT_EQ(freed.pages, 2U);
  EXPECT_TRUE(Freed(kRegionPages - 1));
  EXPECT_TRUE(Freed(kRegionPages));
}

TEST_F(PageRangesTest, PagesThatAreNoRamAreRefusedAndTheOthersFreed) {
  // The end of RAM, the image, the hole behind it, the start of RAM again: one run of four parts.
  std::vector<uint32_t> pages(2 * kRegionPages + 2);
  std::iota(pages.begin(), pages.end(), 2 * kRegionPages - 1);
  const FreedPages freed = Free(pages);
  EXPECT_EQ(freed.pages, 2U);
  EXPECT_EQ(freed.refused_pages, 2U * kRegionPages);
  EXPECT_EQ(freed.host_calls, 2U);
  EXPECT_TRUE(Freed(2 * kRegionPages - 1));
  EXPECT_TRUE(Freed(4 * kRegionPages));
  EXPECT_FALSE(Freed(4 * kRegionPages + 1));
}

TEST_F(PageRangesTest, HighestPageNumbersDoNotWrap) {
  const FreedPages freed = Free({0xffffffff, 0xfffffffe, 0xffffffff, 0});
  EXPECT_EQ(freed.refused_pages, 2U);
  EXPECT_EQ(freed.pages, 1U);
}

TEST_F(PageRangesTest, NoPagesAreNoCalls) {
  EXPECT_EQ(Free({}).host_calls, 0U);
}

TEST_F(PageRangesTest, OneRamRangeIsWholePagesInsideOneRegion) {
  const auto is = [this](uint64_t start, uint64_t length) {
    return IsOneRamRange(*memory_, mem::Gpa{start}, length);
  };
  EXPECT_TRUE(is(0, kRegion));
  EXPECT_TRUE(is(kRegion, kBalloonPage));
  EXPECT_FALSE(is(kRegion - kBalloonPage, 2 * kBalloonPage));
  EXPECT_FALSE(is(0, 0));
  EXPECT_FALSE(is(1, kBalloonPage));
  EXPECT_FALSE(is(0, kBalloonPage - 1));
  EXPECT_FALSE(is(2 * kRegion, kBalloonPage));          // the image
  EXPECT_FALSE(is(3 * kRegion, kBalloonPage));          // nothing
  EXPECT_FALSE(is(5 * kRegion, kBalloonPage));          // behind everything
  EXPECT_FALSE(is(~uint64_t{0} - 4095, kBalloonPage));  // the last page there can be
  EXPECT_FALSE(is(4 * kRegion, ~uint64_t{0} - 4095));   // wraps
}

}  // namespace
}  // namespace wyvern::devices
