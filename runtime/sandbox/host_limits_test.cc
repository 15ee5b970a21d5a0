#include "sandbox/host_limits.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr int64_t kMiB = 1 << 20;

// A cgroup of plain files: each write is seen alone.
class HostLimitsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = std::filesystem::temp_directory_path() / "wyvern-host-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    std::filesystem::create_directory(root_ + "/box");
    CgroupPlace place;
    place.path = "/box";
    cgroup_.emplace(*Cgroup::Make(root_, place, "box"));
  }

  void TearDown() override { std::filesystem::remove_all(root_); }

  void Have(std::initializer_list<const char*> files, const std::string& controllers) {
    for (const char* file : files) {
      ASSERT_TRUE(Open(root_ + "/box/" + file, O_CREAT | O_WRONLY, 0600).has_value());
    }
    ASSERT_TRUE(Open(root_ + "/box/cgroup.controllers", O_CREAT | O_WRONLY, 0600).has_value());
    ASSERT_TRUE(WriteFile(root_ + "/box/cgroup.controllers", controllers).has_value());
  }

  // A plain file keeps what a shorter write does not cover.
  void Empty() {
    for (const auto& file : std::filesystem::directory_iterator(root_ + "/box")) {
      if (file.path().filename() != "cgroup.controllers") {
        std::filesystem::resize_file(file.path(), 0);
      }
    }
  }

  void HaveAll() {
    Have({"cpu.weight", "cpu.max", "cpu.max.burst", "cpu.idle", "cpuset.cpus", "cpuset.mems",
          "memory.max", "memory.low", "memory.swap.max", "io.max", "io.weight"},
         "cpuset cpu io memory\n");
  }

  void Apply(const std::vector<Limits>& containers) {
    const auto applied = limits_.Apply(*cgroup_, containers);
    ASSERT_TRUE(applied.has_value()) << applied.error().message();
  }

  std::string In(const char* file) { return ReadFile(root_ + "/box/" + file, 4096).value_or("?"); }

  std::string root_;
  std::optional<Cgroup> cgroup_;
  HostLimits limits_{50};
};

TEST_F(HostLimitsTest, WhatContainersMayUseTogetherAndTheOverhead) {
  HaveAll();
  Apply({{.cpu_shares = 1024,
          .cpu_quota = 50000,
          .cpus = "0-1",
          .memory_limit = 100 * kMiB,
          .memory_swap = 150 * kMiB,
          .memory_reservation = kMiB},
         {.cpu_shares = 1024,
          .cpu_quota = 20000,
          .cpus = "3",
          .memory_limit = 100 * kMiB,
          .memory_swap = 100 * kMiB}});
  EXPECT_EQ(In("cpu.weight"), "174");
  EXPECT_EQ(In("cpu.max"), "120000 100000");
  EXPECT_EQ(In("cpuset.cpus"), "0-1,3");
  EXPECT_EQ(In("memory.swap.max"), std::to_string(50 * kMiB));
  EXPECT_EQ(In("memory.low"), std::to_string(kMiB));
  EXPECT_EQ(In("memory.max"), "");  // follows the guest's memory
}

TEST_F(HostLimitsTest, WhatIsNoLongerGivenIsTakenAway) {
  HaveAll();
  const BlockDeviceNumber disk{.major = 8, .minor = 0};
  Apply({{.cpu_quota = 50000,
          .cpus = "0",
          .memory_nodes = "0",
          .memory_limit = kMiB,
          .memory_swap = kMiB,
          .io_weights = {{disk, 500}},
          .io_limits = {{disk, {.read_bytes = 5}}}}});
  EXPECT_EQ(In("io.max"), "8:0 rbps=5 wbps=max riops=max wiops=max");
  EXPECT_THAT(In("io.weight"), StartsWith("8:0 4950"));
  EXPECT_EQ(In("memory.swap.max"), "0");
  Empty();
  Apply({});
  EXPECT_EQ(In("cpu.max"), "max 100000");
  EXPECT_EQ(In("cpu.weight"), "100");
  EXPECT_EQ(In("cpuset.cpus"), "\n");
  EXPECT_EQ(In("cpuset.mems"), "\n");
  EXPECT_EQ(In("memory.swap.max"), "max");
  EXPECT_EQ(In("io.max"), "8:0 rbps=max wbps=max riops=max wiops=max");
  EXPECT_THAT(In("io.weight"), StartsWith("8:0 default"));
}

TEST_F(HostLimitsTest, AHostWithoutControllersLeavesToTheGuestWhatTheGuestHolds) {
  Have({}, "\n");
  Apply({});
  Apply({{.cpu_shares = 512, .cpu_quota = 50000, .memory_limit = kMiB, .memory_reservation = 5}});
  const auto sets = limits_.Apply(*cgroup_, {{.cpus = "0"}});
  ASSERT_FALSE(sets.has_value());
  EXPECT_EQ(sets.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(sets.error().message(), HasSubstr("has no cpuset.cpus: the cpuset controller"));
  const auto io = limits_.Apply(*cgroup_, {{.io_limits = {{{8, 0}, {.read_bytes = 5}}}}});
  ASSERT_FALSE(io.has_value());
  EXPECT_THAT(io.error().message(), HasSubstr("the io controller"));
}

}  // namespace
}  // namespace wyvern::runtime
