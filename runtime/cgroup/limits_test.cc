#include "cgroup/limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace wyvern::runtime {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

std::string ErrorOf(const Limits& limits) {
  const auto checked = CheckLimits(limits);
  return checked.has_value() ? "no error" : std::string(checked.error().message());
}

std::vector<std::string> Lines(const Limits& limits, bool has_bfq = false) {
  EXPECT_EQ(ErrorOf(limits), "no error");
  std::vector<std::string> lines;
  for (const ControlWrite& write : ControlWrites(limits, has_bfq)) {
    lines.push_back(write.file + (write.optional ? "?" : "") + "=" + write.text);
  }
  return lines;
}

TEST(LimitsTest, SharesAreWeightsOnTheCurveOfRuncAndCrun) {
  const std::vector<std::pair<uint64_t, uint64_t>> table = {
      {0, 1},       {1, 1},          {2, 1},          {10, 4},
      {100, 17},    {512, 59},       {1024, 100},     {2048, 174},
      {10240, 639}, {262143, 10000}, {262144, 10000}, {~uint64_t{0}, 10000}};
  for (const auto& [shares, weight] : table) {
    EXPECT_EQ(CpuWeightFromShares(shares), weight) << shares;
  }
  for (uint64_t shares = 2; shares < 262144; shares += 7) {
    ASSERT_LE(CpuWeightFromShares(shares), CpuWeightFromShares(shares + 7)) << shares;
  }
}

TEST(LimitsTest, BlkioWeightsAreOnTheLineOfRuncAndCrun) {
  const std::vector<std::pair<uint32_t, uint64_t>> table = {
      {10, 1}, {100, 910}, {500, 4950}, {1000, 10000}, {0, 1}, {5000, 10000}};
  for (const auto& [blkio, weight] : table) {
    EXPECT_EQ(IoWeightFromBlkio(blkio), weight) << blkio;
  }
}

TEST(LimitsTest, WhatIsNotGivenIsNotWritten) {
  EXPECT_THAT(Lines({}), IsEmpty());
  EXPECT_THAT(Lines({.cpu_shares = 0,
                     .cpu_quota = 0,
                     .cpu_period = 0,
                     .memory_limit = 0,
                     .memory_swap = 0,
                     .pids = 0}),
              IsEmpty());
}

TEST(LimitsTest, WhatIsTakenAwayMissesNoController) {
  const Limits none{.cpus = "", .memory_nodes = "", .memory_reservation = 0, .io_weight = 0};
  EXPECT_THAT(Lines(none), ElementsAre("cpuset.cpus?=\n", "cpuset.mems?=\n", "memory.low?=0",
                                       "io.weight?=default 100"));
  EXPECT_THAT(Lines({.io_weight = 0}, true), ElementsAre("io.bfq.weight?=default 100"));
  const auto properties = UnitProperties(none);
  ASSERT_EQ(properties.size(), 4U);
  EXPECT_TRUE(properties[0].bytes.empty() && properties[1].bytes.empty());
  EXPECT_EQ(properties[3].number, 100U);
}

TEST(LimitsTest, Cpu) {
  EXPECT_THAT(Lines({.cpu_shares = 1024}), ElementsAre("cpu.weight=100"));
  EXPECT_THAT(Lines({.cpu_quota = 50000}), ElementsAre("cpu.max=50000 100000"));
  EXPECT_THAT(Lines({.cpu_quota = 150000, .cpu_period = 50000}),
              ElementsAre("cpu.max=150000 50000"));
  EXPECT_THAT(Lines({.cpu_quota = -1}), ElementsAre("cpu.max?=max 100000"));
  EXPECT_THAT(Lines({.cpu_period = 20000}), ElementsAre("cpu.max?=max 20000"));
  EXPECT_THAT(Lines({.cpu_quota = 50000, .cpu_burst = 20000}),
              ElementsAre("cpu.max.burst?=0", "cpu.max=50000 100000", "cpu.max.burst=20000"));
  EXPECT_THAT(Lines({.cpu_shares = 512, .cpu_idle = 1}), ElementsAre("cpu.idle=1"));
  EXPECT_THAT(Lines({.cpu_shares = 512, .cpu_idle = 0}),
              ElementsAre("cpu.idle?=0", "cpu.weight=59"));
  EXPECT_THAT(Lines({.cpus = "0-3,7", .memory_nodes = "0"}),
              ElementsAre("cpuset.cpus=0-3,7", "cpuset.mems=0"));
}

TEST(LimitsTest, SwapOfOciIsMemoryAndSwapTogether) {
  const auto swap = [](int64_t limit, std::optional<int64_t> together) {
    return Lines({.memory_limit = limit, .memory_swap = together});
  };
  EXPECT_THAT(swap(1 << 20, 3 << 20), ElementsAre("memory.max=1048576", "memory.swap.max=2097152"));
  EXPECT_THAT(swap(1 << 20, 1 << 20), ElementsAre("memory.max=1048576", "memory.swap.max?=0"));
  EXPECT_THAT(swap(1 << 20, -1), ElementsAre("memory.max=1048576", "memory.swap.max?=max"));
  EXPECT_THAT(swap(1 << 20, 0), ElementsAre("memory.max=1048576"));
  EXPECT_THAT(swap(-1, std::nullopt), ElementsAre("memory.max=max", "memory.swap.max?=max"));
  EXPECT_THAT(Lines({.swap_alone = 0}), ElementsAre("memory.swap.max?=0"));
  EXPECT_THAT(Lines({.swap_alone = -1}), ElementsAre("memory.swap.max?=max"));
  EXPECT_EQ(UnitProperties({.swap_alone = 5})[0].number, 5U);
  EXPECT_THAT(Lines({.memory_reservation = 4096}), ElementsAre("memory.low=4096"));
  EXPECT_THAT(Lines({.memory_reservation = -1}), ElementsAre("memory.low=max"));
}

TEST(LimitsTest, PidsAndHugePages) {
  EXPECT_THAT(Lines({.pids = 100}), ElementsAre("pids.max=100"));
  EXPECT_THAT(Lines({.pids = -1}), ElementsAre("pids.max=max"));
  EXPECT_THAT(Lines({.huge_pages = {{"1GB", 0}, {"2MB", 4194304}}}),
              ElementsAre("hugetlb.1GB.max=0", "hugetlb.1GB.rsvd.max?=0", "hugetlb.2MB.max=4194304",
                          "hugetlb.2MB.rsvd.max?=4194304"));
}

TEST(LimitsTest, Io) {
  const Limits limits{
      .io_weight = 500,
      .io_weights = {{{8, 0}, 1000}, {{8, 16}, 0}},
      .io_limits = {
          {{8, 0},
           {.read_bytes = 1 << 20, .write_bytes = 0, .read_operations = {}, .write_operations = 7}},
          {{259, 1},
           {.read_bytes = {}, .write_bytes = {}, .read_operations = 9, .write_operations = {}}}}};
  EXPECT_THAT(Lines(limits),
              ElementsAre("io.weight=default 4950", "io.weight=8:0 10000", "io.weight=8:16 default",
                          "io.max=8:0 rbps=1048576 wbps=max wiops=7", "io.max=259:1 riops=9"));
  EXPECT_THAT(Lines({.io_weight = 500, .io_weights = {{{8, 0}, 1000}}}, true),
              ElementsAre("io.bfq.weight=500", "io.bfq.weight=8:0 1000"));
}

TEST(LimitsTest, UnifiedComesLastAndALineAtATime) {
  EXPECT_THAT(
      Lines({.memory_limit = 4096,
             .unified = {{"io.max", "8:0 rbps=1\n8:16 rbps=2\n"}, {"memory.high", "max"}}}),
      ElementsAre("memory.max=4096", "io.max=8:0 rbps=1", "io.max=8:16 rbps=2", "memory.high=max"));
}

TEST(LimitsTest, WhatCannotBeIsRefusedWithItsField) {
  const std::vector<std::pair<Limits, const char*>> table = {
      {{.cpu_period = 999}, "linux.resources.cpu.period: 999"},
      {{.cpu_period = 1000001}, "linux.resources.cpu.period: 1000001"},
      {{.cpu_quota = 999}, "linux.resources.cpu.quota: 999"},
      {{.cpu_burst = 1}, "linux.resources.cpu.burst"},
      {{.cpu_quota = 5000, .cpu_burst = 5001}, "linux.resources.cpu.burst"},
      {{.cpu_idle = 2}, "linux.resources.cpu.idle"},
      {{.cpus = "0-"}, "linux.resources.cpu.cpus"},
      {{.memory_nodes = "0\n1"}, "linux.resources.cpu.mems"},
      {{.memory_limit = -2}, "linux.resources.memory.limit: -2"},
      {{.memory_reservation = -7}, "linux.resources.memory.reservation: -7"},
      {{.memory_swap = 4096}, "linux.resources.memory.swap"},
      {{.memory_limit = -1, .memory_swap = 4096}, "linux.resources.memory.swap"},
      {{.memory_limit = 8192, .memory_swap = 4096}, "linux.resources.memory.swap: 4096"},
      {{.io_weight = 9}, "linux.resources.blockIO.weight: 9"},
      {{.io_weights = {{{8, 0}, 1001}}}, "linux.resources.blockIO.weightDevice: 1001"},
      {{.io_weights = {{{-1, 0}, 100}}}, "linux.resources.blockIO.weightDevice: -1:0"},
      {{.io_limits = {{{8, -1}, {}}}}, "linux.resources.blockIO: a throttle of 8:-1"}};
  for (const auto& [limits, message] : table) {
    EXPECT_THAT(ErrorOf(limits), StartsWith(message));
  }
  for (const char* size : {"", "MB", "2", "0MB", "2TB", "2MB/../x", "99999MB"}) {
    EXPECT_THAT(ErrorOf({.huge_pages = {{size, 1}}}), HasSubstr("hugepageLimits")) << size;
  }
}

TEST(LimitsTest, UnifiedNamesFilesOfControllersOnly) {
  for (const char* name :
       {"", ".", "..", "cgroup.procs", "cgroup.kill", "cgroup.freeze", "memory", "memory.",
        "../memory.max", "memory.../x", "memory.max/../../cgroup.kill", "rdma.max", "misc.max",
        "cpuset.cpus.partition", "memory.reclaim", "memory.max\n", "mem\x01ory.max"}) {
    EXPECT_THAT(ErrorOf({.unified = {{name, "1"}}}), StartsWith("linux.resources.unified: "))
        << name;
  }
  for (const std::string& text :
       {std::string(), std::string("1\0", 2), std::string("\x7f"), std::string(5000, '1')}) {
    EXPECT_THAT(ErrorOf({.unified = {{"memory.max", text}}}),
                StartsWith("linux.resources.unified: memory.max"));
  }
  Limits many;
  for (int i = 0; i < 65; ++i) {
    many.unified.emplace("io.f" + std::to_string(i), "1");
  }
  EXPECT_THAT(ErrorOf(many), HasSubstr("more than 64"));
}

TEST(LimitsTest, CpuLists) {
  EXPECT_THAT(*ParseCpuList("0"), ElementsAre(0U));
  EXPECT_THAT(*ParseCpuList("3,0-1,1"), ElementsAre(0U, 1U, 3U));
  EXPECT_EQ(ParseCpuList("0-8191")->size(), 8192U);
  for (const char* text : {"", ",", "0,", "-1", "1-0", "a", "0-1-2", " 0", "0 ", "8192",
                           "99999999999", "0x1", "0-8191,0-8191,0-8191,0-8191,0-8191"}) {
    EXPECT_FALSE(ParseCpuList(text).has_value()) << text;
  }
}

TEST(LimitsTest, PropertiesOfAUnit) {
  const auto number = [](const char* name, uint64_t value) {
    return UnitProperty{
        .name = name, .kind = UnitProperty::Kind::kNumber, .number = value, .bytes = {}};
  };
  constexpr uint64_t kNone = ~uint64_t{0};
  EXPECT_THAT(UnitProperties({}), IsEmpty());
  EXPECT_THAT(
      UnitProperties({.cpu_shares = 1024,
                      .cpu_quota = 150000,
                      .memory_limit = 3 << 20,
                      .memory_swap = 4 << 20,
                      .memory_reservation = 4096,
                      .pids = 9,
                      .io_weight = 1000}),
      ElementsAre(number("CPUWeight", 100), number("CPUQuotaPerSecUSec", 1500000),
                  number("MemoryMax", 3 << 20), number("MemorySwapMax", 1 << 20),
                  number("MemoryLow", 4096), number("TasksMax", 9), number("IOWeight", 10000)));
  EXPECT_THAT(UnitProperties({.cpu_quota = -1, .memory_limit = -1, .memory_swap = -1, .pids = -1}),
              ElementsAre(number("CPUQuotaPerSecUSec", kNone), number("MemoryMax", kNone),
                          number("MemorySwapMax", kNone), number("TasksMax", kNone)));
  // 12345 of 50000 µs: 246.9 ms a second, up to the next 10.
  EXPECT_THAT(
      UnitProperties({.cpu_quota = 12345, .cpu_period = 50000}),
      ElementsAre(number("CPUQuotaPeriodUSec", 50000), number("CPUQuotaPerSecUSec", 250000)));
  const auto sets = UnitProperties({.cpus = "0-1,9", .memory_nodes = "0"});
  ASSERT_EQ(sets.size(), 2U);
  EXPECT_EQ(sets[0].name, "AllowedCPUs");
  EXPECT_EQ(sets[0].bytes, (std::vector<uint8_t>{3, 2}));
  EXPECT_EQ(sets[1].name, "AllowedMemoryNodes");
  EXPECT_EQ(sets[1].bytes, (std::vector<uint8_t>{1}));
}

}  // namespace
}  // namespace wyvern::runtime
