#include "cli/timeline.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace wyvern::cli {
namespace {

using nlohmann::json;

TEST(TimelineJsonTest, PointsKeepTheirOrderAndNumbers) {
  EXPECT_EQ(TimelineJson({}), "[]");
  const json list = json::parse(TimelineJson({{"shim", 0, 5}, {"kernel", 7, int64_t{1} << 60}}));
  EXPECT_EQ(list, json::parse(R"([{"name": "shim", "start_ns": 0, "end_ns": 5},
                                  {"name": "kernel", "start_ns": 7, "end_ns": 1152921504606846976}])"));
}

TEST(TimelineJsonTest, NameThatIsNotUtf8IsStillJson) {
  const std::string text = TimelineJson({{"cut \xc3", 1, 2}, {"a\"b\n", 2, 3}});
  const json list = json::parse(text);
  EXPECT_EQ(list[0]["name"], "cut \xef\xbf\xbd");
  EXPECT_EQ(list[1]["name"], "a\"b\n");
}

}  // namespace
}  // namespace wyvern::cli
