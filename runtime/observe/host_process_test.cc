#include "observe/host_process.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "base/fd.h"

namespace wyvern::observe {
namespace {

constexpr char kRollup[] =
    "55d0-7ffd ---p 00000000 00:00 0                          [rollup]\n"
    "Rss:                1604 kB\nPss:                 300 kB\nPss_Dirty:            90 kB\n"
    "Pss_Anon:             80 kB\nSwap:                  9 kB\nSwapPss:               7 kB\n";

TEST(HostProcessTest, FieldsOfTheKernelsFiles) {
  const std::string proc = testing::TempDir() + "proc-" + std::to_string(getpid());
  const std::string directory = proc + "/42";
  std::filesystem::create_directories(directory);
  ASSERT_TRUE(WriteFile(directory + "/smaps_rollup", kRollup));
  // A name may hold brackets, spaces and numbers.
  const auto ticks = std::to_string(sysconf(_SC_CLK_TCK));
  ASSERT_TRUE(WriteFile(directory + "/stat", "42 (a) 1 2 3) S 1 1 1 0 -1 4194304 1 2 3 4 " + ticks +
                                                 " " + ticks + " 0 0 20 0 1 0 5 6 7\n"));
  auto usage = ReadProcessUsage(42, proc);
  ASSERT_TRUE(usage.has_value()) << usage.error().message();
  EXPECT_EQ(usage->pss, 300U << 10U);
  EXPECT_EQ(usage->rss, 1604U << 10U);
  EXPECT_EQ(usage->swap_pss, 7U << 10U);
  EXPECT_EQ(usage->cpu_usec, 2'000'000U);
  EXPECT_FALSE(usage->read_bytes.has_value()) << "no file says it";
  ASSERT_TRUE(WriteFile(directory + "/io", "rchar: 5\nwchar: 6\nread_bytes: 7\n"));
  usage = ReadProcessUsage(42, proc);
  EXPECT_EQ(usage->read_bytes, 5U);
  EXPECT_EQ(usage->written_bytes, 6U);
  EXPECT_EQ(ReadProcessUsage(43, proc).error().code(), Code::kNotFound);
  std::filesystem::remove_all(proc);
}

TEST(HostProcessTest, WhatIsNoSuchFileCountsNothing) {
  for (const char* text : {"", "\n", "Pss", "Pss:", "Pss: x kB", "Pss: 99999999999999999999 kB",
                           "Pss: 18446744073709551615 kB", "Pss_Dirty: 3 kB", "x Pss: 3 kB"}) {
    EXPECT_EQ(KilobytesOf(text, "Pss"), 0U) << text;
  }
  for (const char* text : {"", ")", "1 (a", "1 (a) S", "1 (a) S 1 1 1 0 -1 4 1 2 3 4 x y"}) {
    EXPECT_EQ(TicksOf(text), 0U) << text;
  }
}

TEST(HostProcessTest, OfThisProcess) {
  const auto usage = ReadProcessUsage(getpid());
  ASSERT_TRUE(usage.has_value());
  EXPECT_GT(usage->pss, 100'000U);
  EXPECT_GE(usage->rss, usage->pss);
}

}  // namespace
}  // namespace wyvern::observe
