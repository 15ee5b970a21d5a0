#include "task/stats.h"

#include <gtest/gtest.h>

#include "proto/containerd_cgroups2.pb.h"

namespace wyvern::shim {
namespace {

TEST(StatsTest, FieldsOfTheCgroupFilesArriveUnderTheirNames) {
  runtime::ContainerStats stats;
  stats.cpu_usage_usec = 11;
  stats.memory_current = 22;
  stats.memory_limit = 33;
  stats.memory_stat = {{"anon", 44}, {"inactive_file", 55}, {"pgmajfault", 66}, {"unknown", 77}};
  stats.memory_events = {{"oom_kill", 2}};
  stats.pids_current = 5;
  stats.io = {{253, 1, 100, 200, 3, 4}, {8, 0, 0, 0, 0, 0}};
  const pb::Any any = EncodeStats(stats);
  EXPECT_EQ(any.type_url(), "io.containerd.cgroups.v2.Metrics");
  io::containerd::cgroups::v2::Metrics metrics;
  ASSERT_TRUE(metrics.ParseFromString(any.value()));
  EXPECT_EQ(metrics.cpu().usage_usec(), 11U);
  EXPECT_EQ(metrics.memory().usage(), 22U);
  EXPECT_EQ(metrics.memory().usage_limit(), 33U);
  EXPECT_EQ(metrics.memory().anon(), 44U);
  EXPECT_EQ(metrics.memory().inactive_file(), 55U);
  EXPECT_EQ(metrics.memory().pgmajfault(), 66U);
  EXPECT_EQ(metrics.memory_events().oom_kill(), 2U);
  EXPECT_EQ(metrics.pids().current(), 5U);
  ASSERT_EQ(metrics.io().usage_size(), 2);
  EXPECT_EQ(metrics.io().usage(0).major(), 253U);
  EXPECT_EQ(metrics.io().usage(0).minor(), 1U);
  EXPECT_EQ(metrics.io().usage(0).rbytes(), 100U);
  EXPECT_EQ(metrics.io().usage(0).wbytes(), 200U);
  EXPECT_EQ(metrics.io().usage(0).rios(), 3U);
  EXPECT_EQ(metrics.io().usage(0).wios(), 4U);
  EXPECT_EQ(metrics.io().usage(1).major(), 8U);
}

}  // namespace
}  // namespace wyvern::shim
