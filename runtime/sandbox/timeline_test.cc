#include "sandbox/timeline.h"

#include <gtest/gtest.h>

#include <limits>

namespace wyvern::runtime {
namespace {

using agent::v1::HelloResponse;

void AddPoint(HelloResponse& hello, const std::string& name, uint64_t boottime_ns) {
  auto& point = *hello.add_timeline();
  point.set_name(name);
  point.set_boottime_ns(boottime_ns);
}

std::vector<TimelinePoint> PointsOf(const HelloResponse& hello, int64_t boot_ns, int64_t hello_ns) {
  TimelineRecorder recorder;
  recorder.AddGuest(hello, boot_ns, hello_ns);
  return recorder.Points();
}

TEST(TimelineTest, GuestsPointsEndWhereItsHelloCame) {
  HelloResponse hello;
  AddPoint(hello, "agent-start", 70);
  AddPoint(hello, "agent-ready", 80);
  AddPoint(hello, "hello", 100);
  const auto points = PointsOf(hello, 1000, 2000);
  ASSERT_EQ(points.size(), 3U);
  EXPECT_EQ(points[0].name, "kernel");
  EXPECT_EQ(points[0].start_ns, 1000);
  EXPECT_EQ(points[0].end_ns, 1970);
  EXPECT_EQ(points[1].name, "agent-ready");
  EXPECT_EQ(points[1].end_ns, 1980);
  EXPECT_EQ(points[2].name, "hello");
  EXPECT_EQ(points[2].end_ns, 2000);
}

TEST(TimelineTest, GuestsNamesAreShortAndPlain) {
  HelloResponse hello;
  AddPoint(hello, "", 1);
  AddPoint(hello, std::string(31, 'x') + "\xc3\xa9", 2);  // the limit cuts the letter in two
  AddPoint(hello, "a\x1b[2J\nb", 3);
  const auto points = PointsOf(hello, 0, 10);
  ASSERT_EQ(points.size(), 3U);
  EXPECT_EQ(points[1].name, std::string(31, 'x') + "?");
  EXPECT_EQ(points[2].name, "a?[2J?b");
}

TEST(TimelineTest, GuestsTimesStayBetweenBootAndHello) {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  for (const uint64_t last : {uint64_t{0}, uint64_t{5}, uint64_t{1} << 63U, kMax}) {
    HelloResponse hello;
    AddPoint(hello, "", 0);
    AddPoint(hello, "late", kMax);
    AddPoint(hello, "odd", (uint64_t{1} << 63U) + 5);
    AddPoint(hello, "hello", last);
    for (const TimelinePoint& point : PointsOf(hello, 1000, 2000)) {
      EXPECT_GE(std::min(point.start_ns, point.end_ns), 1000) << point.name;
      EXPECT_LE(std::max(point.start_ns, point.end_ns), 2000) << point.name;
    }
  }
}

TEST(TimelineTest, TooFewOrTooManyPointsOfTheGuestAreOneSpan) {
  HelloResponse hello;
  for (const int count : {0, 1, 17}) {
    while (hello.timeline_size() < count) {
      AddPoint(hello, "x", 1);
    }
    const auto points = PointsOf(hello, 3, 4);
    ASSERT_EQ(points.size(), 1U) << count;
    EXPECT_EQ(points[0].name, "boot");
  }
}

}  // namespace
}  // namespace wyvern::runtime
