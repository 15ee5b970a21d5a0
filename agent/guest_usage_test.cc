#include "agent/guest_usage.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "agent/testing/fake_kernel.h"

namespace wyvern::agent {
namespace {

TEST(GuestUsageTest, FiguresOfEveryFile) {
  FakeKernel kernel;
  kernel.Put("/proc/meminfo",
             "MemTotal:        1000 kB\nMemFree:          200 kB\nMemAvailable:     500 kB\n"
             "Buffers:           10 kB\nCached:           300 kB\nSwapCached:          1 kB\n"
             "Dirty:              4 kB\nShmem:              5 kB\nSReclaimable:       6 kB\n"
             "SwapTotal:          7 kB\nSwapFree:           8 kB\nHugePages_Total:     0\n");
  kernel.Put("/proc/stat", "cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 9 9 9 9 9 9 9 9 0 0\nintr 5\n");
  kernel.Put("/proc/vmstat", "nr_free_pages 1\noom_kill 3\noom_kill_other 9\n");
  kernel.Put("/proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=11\n");
  kernel.Put("/proc/pressure/memory",
             "some avg10=1.00 avg60=0.00 avg300=0.00 total=12\n"
             "full avg10=0.50 avg60=0.00 avg300=0.00 total=13\n");
  kernel.Put("/proc/pressure/io", "some total=14\nfull total=15\n");
  const v1::GuestUsageResponse usage = ReadGuestUsage(kernel);
  EXPECT_EQ(usage.memory_total(), 1000U << 10U);
  EXPECT_EQ(usage.memory_free(), 200U << 10U);
  EXPECT_EQ(usage.memory_available(), 500U << 10U);
  EXPECT_EQ(usage.buffers(), 10U << 10U);
  EXPECT_EQ(usage.cached(), 300U << 10U);
  EXPECT_EQ(usage.dirty(), 4U << 10U);
  EXPECT_EQ(usage.shmem(), 5U << 10U);
  EXPECT_EQ(usage.slab_reclaimable(), 6U << 10U);
  EXPECT_EQ(usage.swap_total(), 7U << 10U);
  EXPECT_EQ(usage.swap_free(), 8U << 10U);
  const auto tick = 1'000'000U / static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
  EXPECT_EQ(usage.cpu_user_usec(), 3 * tick);
  EXPECT_EQ(usage.cpu_system_usec(), (3 + 6 + 7) * tick);
  EXPECT_EQ(usage.cpu_idle_usec(), 9 * tick);
  EXPECT_EQ(usage.cpu_steal_usec(), 8 * tick);
  EXPECT_EQ(usage.oom_kills(), 3U);
  EXPECT_EQ(usage.cpu_some_usec(), 11U);
  EXPECT_EQ(usage.memory_some_usec(), 12U);
  EXPECT_EQ(usage.memory_full_usec(), 13U);
  EXPECT_EQ(usage.io_some_usec(), 14U);
  EXPECT_EQ(usage.io_full_usec(), 15U);
  EXPECT_GE(usage.cpus_online(), 1U);
}

TEST(GuestUsageTest, WhatTheKernelDoesNotTellIsZero) {
  FakeKernel kernel;
  kernel.Put("/proc/meminfo", "MemTotal:\nMemFree: x kB\n\n");
  kernel.Put("/proc/stat", "cpu\n");
  kernel.Put("/proc/pressure/memory", "some\nfull total=\n");
  v1::GuestUsageResponse usage = ReadGuestUsage(kernel);
  usage.clear_cpus_online();
  EXPECT_EQ(usage.ByteSizeLong(), 0U);
}

TEST(GuestUsageTest, OfThisMachine) {
  const v1::GuestUsageResponse usage = ReadGuestUsage(KernelFiles());
  EXPECT_GT(usage.memory_total(), usage.memory_free());
  EXPECT_GT(usage.cpu_user_usec(), 0U);
}

}  // namespace
}  // namespace wyvern::agent
