#include "virtio_mem/plug_map.h"

#include <gtest/gtest.h>

#include "base/check.h"

namespace wyvern::devices {
namespace {

TEST(PlugMapTest, CountsWhatIsPlugged) {
  PlugMap map(130);
  map.Set({.first = 60, .count = 10}, true);
  map.Set({.first = 129, .count = 1}, true);
  map.Set({.first = 61, .count = 2}, true);  // again
  EXPECT_EQ(map.plugged(), 11U);
  EXPECT_EQ(map.PluggedIn({.first = 0, .count = 130}), 11U);
  EXPECT_EQ(map.PluggedIn({.first = 64, .count = 64}), 6U);
  EXPECT_EQ(map.PluggedIn({.first = 0, .count = 60}), 0U);
  map.Set({.first = 0, .count = 130}, false);
  EXPECT_EQ(map.plugged(), 0U);
}

TEST(PlugMapTest, RunsAreAsLongAsTheyGo) {
  PlugMap map(130);
  map.Set({.first = 3, .count = 2}, true);
  map.Set({.first = 63, .count = 67}, true);
  auto run = map.NextPlugged(0);
  WV_CHECK(run.has_value());
  EXPECT_EQ(run->first, 3U);
  EXPECT_EQ(run->count, 2U);
  run = map.NextPlugged(5);
  WV_CHECK(run.has_value());
  EXPECT_EQ(run->first, 63U);
  EXPECT_EQ(run->count, 67U);
  EXPECT_FALSE(map.NextPlugged(130));
}

TEST(PlugMapTest, WordsComeBackAndForeignOnesDoNot) {
  PlugMap map(70);
  map.Set({.first = 0, .count = 3}, true);
  map.Set({.first = 69, .count = 1}, true);
  const auto copy = PlugMap::FromWords(70, map.words());
  WV_CHECK(copy.has_value());
  EXPECT_EQ(copy->plugged(), 4U);
  EXPECT_TRUE(copy->Plugged(69));
  EXPECT_FALSE(PlugMap::FromWords(69, map.words()));  // a block that it does not have
  EXPECT_FALSE(PlugMap::FromWords(129, map.words()));
  EXPECT_FALSE(PlugMap::FromWords(64, map.words()));
}

TEST(PlugMapDeathTest, RangeOutsideAborts) {
  PlugMap map(64);
  EXPECT_DEATH(map.Set({.first = 60, .count = 5}, true), "CHECK failed");
  EXPECT_DEATH(map.PluggedIn({.first = ~uint64_t{0}, .count = 2}), "CHECK failed");
}

}  // namespace
}  // namespace wyvern::devices
