#include "agent/cgroup.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "agent/container.h"
#include "agent/machine.h"

namespace wyvern::agent {
namespace {

namespace fs = std::filesystem;

class CgroupTest : public testing::Test {
 protected:
  CgroupTest() {
    std::string name = testing::TempDir() + "cgroup-test-XXXXXX";
    directory = mkdtemp(name.data());
  }

  void TearDown() override { fs::remove_all(directory); }

  void Put(const std::string& file, const std::string& text) const {
    std::ofstream(directory + "/" + file) << text;
  }

  std::string directory;
};

TEST_F(CgroupTest, StatsOfEveryFile) {
  Put("cpu.stat",
      "usage_usec 100\nuser_usec 60\nsystem_usec 40\nnr_periods 3\nnr_throttled 2\nthrottled_usec "
      "1\nnew_key 9\n");
  Put("memory.current", "4096\n");
  Put("memory.max", "max\n");
  Put("memory.stat", "anon 1\ninactive_file 2\n");
  Put("memory.events", "oom 1\noom_kill 5\n");
  Put("memory.swap.current", "7\n");
  Put("memory.swap.max", "8\n");
  Put("pids.current", "3\n");
  Put("pids.max", "12\n");
  Put("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5\n259:1 rbytes=10\nbroken\n");
  const auto stats = Cgroup(directory).Stats();
  ASSERT_TRUE(stats.has_value());
  EXPECT_EQ(stats->cpu_usage_usec(), 100U);
  EXPECT_EQ(stats->cpu_throttled_usec(), 1U);
  EXPECT_EQ(stats->memory_current(), 4096U);
  EXPECT_EQ(stats->memory_limit(), UINT64_MAX);
  EXPECT_EQ(stats->memory_stat().at("inactive_file"), 2U);
  EXPECT_EQ(stats->memory_events().at("oom_kill"), 5U);
  EXPECT_EQ(stats->swap_limit(), 8U);
  EXPECT_EQ(stats->pids_limit(), 12U);
  ASSERT_EQ(stats->io_size(), 2);
  EXPECT_EQ(stats->io(0).wios(), 4U);
  EXPECT_EQ(stats->io(1).major(), 259U);
  EXPECT_EQ(stats->io(1).rbytes(), 10U);
  EXPECT_EQ(Cgroup(directory).OomEvents().kills, 5U);
  EXPECT_EQ(Cgroup(directory).OomEvents().limits, 1U);
}

TEST_F(CgroupTest, AGroupThatIsGoneIsNotFound) {
  const Cgroup gone(directory + "/gone");
  EXPECT_EQ(gone.Stats().error().code(), Code::kNotFound);
  EXPECT_EQ(gone.Processes().error().code(), Code::kNotFound);
  EXPECT_FALSE(gone.IsFrozen().has_value());
  EXPECT_EQ(gone.OomEvents().kills, 0U);
}

TEST_F(CgroupTest, MissingControllersReadAsZero) {
  Put("cpu.stat", "usage_usec 1\n");
  const auto stats = Cgroup(directory).Stats();
  ASSERT_TRUE(stats.has_value());
  EXPECT_EQ(stats->memory_current(), 0U);
  EXPECT_EQ(stats->io_size(), 0);
}

TEST_F(CgroupTest, ProcessesOfGroupsBelowCount) {
  fs::create_directories(directory + "/a/b");
  Put("cgroup.procs", "");
  Put("a/cgroup.procs", "11\n12\n");
  Put("a/b/cgroup.procs", "13\n");
  const auto pids = Cgroup(directory).Processes();
  ASSERT_TRUE(pids.has_value());
  EXPECT_EQ(*pids, (std::vector<pid_t>{11, 12, 13}));
}

TEST_F(CgroupTest, FrozenIsWhatTheEventsSay) {
  Put("cgroup.events", "populated 1\nfrozen 0\n");
  EXPECT_FALSE(Cgroup(directory).IsFrozen().value_or(true));
  Put("cgroup.events", "populated 1\nfrozen 1\n");
  EXPECT_TRUE(Cgroup(directory).IsFrozen().value_or(false));
}

TEST(IdTest, SafeAsPathComponents) {
  EXPECT_TRUE(IsValidId("a"));
  EXPECT_TRUE(IsValidId("0a_.-Z"));
  EXPECT_TRUE(IsValidId(std::string(128, 'a')));
  for (const char* bad : {"", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "\xc3\xa4"}) {
    EXPECT_FALSE(IsValidId(bad)) << bad;
  }
  EXPECT_FALSE(IsValidId(std::string(129, 'a')));
  EXPECT_FALSE(IsValidId(std::string("a\0b", 3)));
}

TEST(SysctlTest, NamesCannotLeaveTheirTree) {
  for (const char* bad : {"", "=1", "novalue", "../../etc/passwd=1", "a b=1", "net/../../x=1"}) {
    const auto set = SetSysctl(bad);
    ASSERT_FALSE(set.has_value()) << bad;
    EXPECT_EQ(set.error().code(), Code::kInvalidArgument) << bad;
  }
  EXPECT_FALSE(SetSysctl("no.such.name=1").has_value());
}

}  // namespace
}  // namespace wyvern::agent
