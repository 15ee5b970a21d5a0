#include "cli/direct_volume.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace wyvern::cli {
namespace {

TEST(DirectVolumeTest, StatsAreAsCsiHasThem) {
  control::v1::DirectVolumeResponse usage;
  usage.set_bytes(uint64_t{1} << 40U);
  usage.set_bytes_available(600);
  usage.set_bytes_used(400);
  usage.set_inodes(10);
  usage.set_inodes_available(7);
  usage.set_inodes_used(3);
  const auto json = nlohmann::json::parse(VolumeStatsJson(usage));
  EXPECT_EQ(
      json["usage"][0],
      nlohmann::json::parse(R"({"available":600,"total":1099511627776,"used":400,"unit":1})"));
  EXPECT_EQ(json["usage"][1],
            nlohmann::json::parse(R"({"available":7,"total":10,"used":3,"unit":2})"));
  EXPECT_EQ(json["volume_condition"]["abnormal"], false);
}

}  // namespace
}  // namespace wyvern::cli
