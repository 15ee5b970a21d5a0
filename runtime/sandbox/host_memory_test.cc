#include "sandbox/host_memory.h"

#include <gmock/gmock.h>
#include <stdlib.h>

#include <filesystem>

#include "base/fd.h"

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;

constexpr uint64_t kMebi = 1ULL << 20U;
constexpr uint64_t kGiB = 1ULL << 30U;

TEST(HostMemoryTest, LimitIsGuestMemoryWhatMapsItAndTheOverhead) {
  EXPECT_EQ(HostMemoryLimit(256 * kMebi, 64 * kMebi), (256 + 4 + 64) * kMebi);
  EXPECT_EQ(HostMemoryLimit(32 * kGiB, 64 * kMebi), 32 * kGiB + (512 + 64) * kMebi);
}

TEST(HostMemoryTest, MemoryIsWholePages) {
  EXPECT_EQ(RoundToPages(258 * kMebi, RamPages::kTransparent), 258 * kMebi);
  EXPECT_EQ(RoundToPages(258 * kMebi, RamPages::kSmall), 258 * kMebi);
  EXPECT_EQ(RoundToPages(258 * kMebi, RamPages::k2MiB), 258 * kMebi);
  EXPECT_EQ(RoundToPages(258 * kMebi, RamPages::k1GiB), kGiB);
  EXPECT_EQ(RoundToPages(kGiB, RamPages::k1GiB), kGiB);
}

TEST(HostMemoryTest, WordsOfTheConfigurationAreKindsOfPages) {
  using HugePages = Config::Memory::HugePages;
  EXPECT_EQ(RamPagesOf(HugePages::kTransparent), RamPages::kTransparent);
  EXPECT_EQ(RamPagesOf(HugePages::kNone), RamPages::kSmall);
  EXPECT_EQ(RamPagesOf(HugePages::k2MiB), RamPages::k2MiB);
  EXPECT_EQ(RamPagesOf(HugePages::k1GiB), RamPages::k1GiB);
}

class HugePagePoolTest : public testing::Test {
 protected:
  HugePagePoolTest() {
    std::string name = testing::TempDir() + "huge-page-pool-XXXXXX";
    sys_ = mkdtemp(name.data());
    pool_ = sys_ + "/kernel/mm/hugepages/hugepages-2048kB";
    std::filesystem::create_directories(pool_);
    Put("nr_hugepages", "100");
    Put("free_hugepages", "80");
    Put("resv_hugepages", "30");
    Put("nr_overcommit_hugepages", "0");
    Put("surplus_hugepages", "0");
  }

  ~HugePagePoolTest() override { std::filesystem::remove_all(sys_); }

  void Put(const std::string& name, const std::string& text) const {
    EXPECT_TRUE(WriteFile(pool_ + "/" + name, text + "\n").has_value());
  }

  Code Check(uint64_t pages) const {
    const auto checked = CheckHugePages(RamPages::k2MiB, pages * 2 * kMebi, sys_);
    return checked ? Code::kOk : checked.error().code();
  }

  std::string sys_, pool_;
};

TEST_F(HugePagePoolTest, WhatOthersHaveReservedIsNotFree) {
  EXPECT_EQ(Check(50), Code::kOk);
  EXPECT_EQ(Check(51), Code::kResourceExhausted);
}

TEST_F(HugePagePoolTest, WhatThePoolMayGrowByIsFree) {
  Put("nr_overcommit_hugepages", "20");
  Put("surplus_hugepages", "5");
  EXPECT_EQ(Check(65), Code::kOk);
  EXPECT_EQ(Check(66), Code::kResourceExhausted);
}

TEST_F(HugePagePoolTest, CountersThatDoNotAddUpAreNothingFree) {
  Put("resv_hugepages", "90");
  Put("surplus_hugepages", "7");
  EXPECT_EQ(Check(1), Code::kResourceExhausted);
  Put("free_hugepages", "many");
  EXPECT_EQ(Check(1), Code::kResourceExhausted);
}

TEST_F(HugePagePoolTest, MessagesSayHowManyAreMissingAndWhatToDo) {
  const auto few = CheckHugePages(RamPages::k2MiB, 256 * kMebi, sys_);
  ASSERT_FALSE(few.has_value());
  EXPECT_THAT(few.error().message(), HasSubstr("memory.huge_pages: 2MiB: 256 MiB of guest memory "
                                               "need 128 free pages of that size, and the host has "
                                               "50"));
  EXPECT_THAT(few.error().message(), HasSubstr("hugepages-2048kB/nr_hugepages"));
  const auto none = CheckHugePages(RamPages::k1GiB, kGiB, sys_);
  ASSERT_FALSE(none.has_value());
  EXPECT_EQ(none.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(none.error().message(), HasSubstr("no pages of that size"));
}

TEST(HostMemoryTest, GuestThatHadNothingLeftToKillSaysSo) {
  const std::string panic = "[    9.1] Kernel panic - not syncing: ";
  EXPECT_TRUE(EndedForWantOfMemory(panic + "System is deadlocked on memory\n[    9.1] CPU: 0"));
  EXPECT_TRUE(EndedForWantOfMemory(panic + "Out of memory: system-wide panic_on_oom is enabled"));
  EXPECT_FALSE(EndedForWantOfMemory(panic + "Attempted to kill init!"));
  EXPECT_FALSE(EndedForWantOfMemory("System is deadlocked on memory"));
  EXPECT_FALSE(EndedForWantOfMemory("Out of memory: Killed process 7 (x)\n" + panic + "Oops"));
  EXPECT_FALSE(EndedForWantOfMemory(panic));
  EXPECT_FALSE(EndedForWantOfMemory(""));
}

TEST_F(HugePagePoolTest, OtherPagesNeedNoPool) {
  for (const RamPages pages : {RamPages::kTransparent, RamPages::kSmall}) {
    EXPECT_TRUE(CheckHugePages(pages, kGiB, "/nowhere").has_value());
  }
}

}  // namespace
}  // namespace wyvern::runtime
