#include "base/cache_reclaim.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/fd.h"

namespace wyvern {
namespace {

using std::chrono::seconds;

constexpr uint64_t kMiB = 1ULL << 20U;

// --- Figures ---

TEST(CacheFiguresTest, FilesOfBothListsCountAndMemfdsDoNot) {
  const CacheFigures figures = ParseCacheFigures(
      "anon 1\nfile 900\nshmem 500\ninactive_anon 7\ninactive_file 300\nactive_file 100\n"
      "file_dirty 30\nfile_writeback 12\nworkingset_refault_anon 99\nworkingset_refault_file 2\n",
      "some avg10=0.00 avg60=0.00 avg300=0.00 total=4711\n"
      "full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n");
  EXPECT_EQ(figures.file, 400U);
  EXPECT_EQ(figures.unwritten, 42U);
  EXPECT_EQ(figures.refaulted, 2U * 4096);
  EXPECT_EQ(figures.stalled_us, 4711U);
}

TEST(CacheFiguresTest, WhatIsNotThereIsNothing) {
  const CacheFigures figures = ParseCacheFigures("", "");
  EXPECT_EQ(figures.file, 0U);
  EXPECT_FALSE(figures.stalled_us);
}

TEST(CacheFiguresTest, LinesThatAreNoneAreIgnored) {
  for (const char* text : {"\n", "inactive_file", "inactive_file \n", "inactive_file x\nsome\n",
                           "some total=\n", "inactive_file -1", "\n\n\nx y z"}) {
    const CacheFigures figures = ParseCacheFigures(text, text);
    EXPECT_EQ(figures.file, 0U) << text;
  }
}

// --- Pace ---

class CachePaceTest : public testing::Test {
 protected:
  // A round later.
  uint64_t Next() {
    at_ += CachePace::kPeriod;
    return pace_.Next(now_, at_);
  }

  // What was asked for is gone.
  uint64_t Take() {
    const uint64_t taken = Next();
    now_.file -= taken;
    return taken;
  }

  CacheFigures now_{.file = 1024 * kMiB, .stalled_us = 0};
  CachePace pace_;
  CachePace::Time at_;
};

TEST_F(CachePaceTest, FirstRoundOnlyLooks) {
  EXPECT_EQ(Next(), 0U);
}

TEST_F(CachePaceTest, AGibibyteThatNobodyReadsIsDownToTheKeptWithinAMinute) {
  Next();
  for (seconds passed{0}; passed < seconds(35); passed += CachePace::kPeriod) {
    EXPECT_GT(Take(), 0U);
  }
  EXPECT_LT(now_.file, 100 * kMiB);
  for (int round = 0; round < 5; ++round) {
    Take();
  }
  EXPECT_EQ(now_.file, CachePace::kKept);
  EXPECT_EQ(Take(), 0U);
}

TEST_F(CachePaceTest, WhatIsNotWrittenYetIsLeftAlone) {
  now_.unwritten = now_.file - CachePace::kKept;
  Next();
  EXPECT_EQ(Next(), 0U);
}

TEST_F(CachePaceTest, CacheThatGrowsIsInUse) {
  Next();
  now_.file += 200 * kMiB;
  EXPECT_EQ(Next(), 0U);
  EXPECT_GT(Next(), 0U);
}

TEST_F(CachePaceTest, LogsThatAreWrittenAllTheTimeDoNotKeepTheRest) {
  Next();
  now_.file += kMiB;
  EXPECT_GT(Next(), 0U);
}

TEST_F(CachePaceTest, TasksThatWaitForMemoryStopItForTwiceAsLongEachTime) {
  Next();
  for (const uint32_t expected : {1U, 2U, 4U, 8U, CachePace::kMostPauses, CachePace::kMostPauses}) {
    now_.stalled_us = *now_.stalled_us + 100'000;
    uint32_t pauses = 0;
    while (Next() == 0 && pauses < 100) {
      ++pauses;
    }
    EXPECT_EQ(pauses, expected);
  }
}

TEST_F(CachePaceTest, AShortWaitIsNone) {
  Next();
  now_.stalled_us = *now_.stalled_us + 40'000;  // of five seconds
  EXPECT_GT(Next(), 0U);
}

TEST_F(CachePaceTest, PagesThatComeBackStopIt) {
  Next();
  const uint64_t taken = Take();
  now_.refaulted += taken / 4;
  EXPECT_EQ(Next(), 0U);
}

TEST_F(CachePaceTest, AKernelWithoutPressureGoesByWhatComesBack) {
  now_.stalled_us.reset();
  Next();
  EXPECT_GT(Take(), 0U);
  now_.refaulted += 512 * kMiB;
  EXPECT_EQ(Next(), 0U);
}

TEST_F(CachePaceTest, CountersOfAnotherGroupAreNoPressure) {
  now_.stalled_us = 1'000'000'000;
  now_.refaulted = 1024 * kMiB;
  Next();
  now_.stalled_us = 0;
  now_.refaulted = 0;
  EXPECT_GT(Next(), 0U);
}

// --- A group ---

class CacheReclaimTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "wyvern_cache_reclaim_XXXXXX";
    ASSERT_NE(mkdtemp(dir_.data()), nullptr);
    Write("memory.stat", "inactive_file 1073741824\nactive_file 0\n");
    Write("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
    Write("memory.reclaim", "");
    Write("swaps", "Filename\tType\tSize\tUsed\tPriority\n");
  }

  void TearDown() override { std::filesystem::remove_all(dir_); }

  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFile(dir_ + "/" + name, text));
  }

  // Each write of a test kernel that does not know swappiness= fails with EINVAL, and a number is taken.
  void UseOldKernel() {
    std::filesystem::remove(dir_ + "/memory.reclaim");
    std::filesystem::create_symlink("/proc/self/timerslack_ns", dir_ + "/memory.reclaim");
  }

  Result<uint64_t> Round(const std::function<bool()>& stop = [] { return false; }) {
    at_ += CachePace::kPeriod;
    return reclaim_->Round(at_, stop);
  }

  void Start() { reclaim_.emplace(dir_, dir_ + "/swaps"); }

  std::string dir_;
  std::optional<CacheReclaim> reclaim_;
  CachePace::Time at_;
};

TEST_F(CacheReclaimTest, AsksForFilePagesOnly) {
  Start();
  EXPECT_EQ(*Round(), 0U);
  EXPECT_EQ(*Round(), (1024 - 16) * kMiB / 2);
  const std::string last = *ReadFile(dir_ + "/memory.reclaim");
  EXPECT_NE(last.find(" swappiness=0"), std::string::npos) << last;
}

TEST_F(CacheReclaimTest, EndsBetweenPieces) {
  Start();
  (void)Round();
  int asked = 0;
  EXPECT_EQ(*Round([&asked] { return ++asked > 2; }), 2 * CacheReclaim::kPiece);
}

TEST_F(CacheReclaimTest, AnOlderKernelWithoutSwapIsAskedPlainly) {
  UseOldKernel();
  Start();
  (void)Round();
  const auto taken = Round();
  ASSERT_TRUE(taken) << taken.error().message();
  EXPECT_GT(*taken, 0U);
}

TEST_F(CacheReclaimTest, SwapThatIsAddedLaterIsSeen) {
  UseOldKernel();
  Start();
  (void)Round();
  EXPECT_GT(*Round(), 0U);
  Write("swaps", "Filename Type Size Used Priority\n/swap file 1 0 -2\n");
  EXPECT_EQ(Round().error().code(), Code::kUnimplemented);
}

TEST_F(CacheReclaimTest, AnOlderKernelWithSwapIsNeverAsked) {
  UseOldKernel();
  Write("swaps", "Filename Type Size Used Priority\n/swap file 1 0 -2\n");
  Start();
  (void)Round();
  EXPECT_EQ(Round().error().code(), Code::kUnimplemented);
}

TEST_F(CacheReclaimTest, AKernelWithoutReclaimIsTold) {
  std::filesystem::remove(dir_ + "/memory.reclaim");
  Start();
  (void)Round();
  EXPECT_EQ(Round().error().code(), Code::kUnimplemented);
}

TEST_F(CacheReclaimTest, AGroupThatIsGoneIsNotFound) {
  Start();
  std::filesystem::remove_all(dir_);
  EXPECT_EQ(Round().error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace wyvern
