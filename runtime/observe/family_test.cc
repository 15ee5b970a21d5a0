#include "observe/family.h"

#include <gmock/gmock.h>

#include <limits>

namespace wyvern::observe {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr FamilySet::Kind kReads = {"wyvern_reads_total", MetricType::kCounter, "Reads"};

TEST(FamilyTest, TextIsPrometheusExposition) {
  FamilySet set;
  set.Add(kReads, {{"device", "vda"}}, 3);
  set.Add({"wyvern_a_bytes", MetricType::kGauge, "Bytes"}, {}, 0.5);
  set.Add(kReads, {{"device", "vdb"}, {"mode", "x"}}, 4);
  constexpr FamilySet::Kind kTime = {"wyvern_time_seconds", MetricType::kSummary, "Time"};
  set.Add(kTime, {}, 0.25, "_sum");
  set.Add(kTime, {}, 2, "_count");
  EXPECT_EQ(set.Text(),
            "# HELP wyvern_a_bytes Bytes\n# TYPE wyvern_a_bytes gauge\nwyvern_a_bytes 0.5\n"
            "# HELP wyvern_reads_total Reads\n# TYPE wyvern_reads_total counter\n"
            "wyvern_reads_total{device=\"vda\"} 3\n"
            "wyvern_reads_total{device=\"vdb\",mode=\"x\"} 4\n"
            "# HELP wyvern_time_seconds Time\n# TYPE wyvern_time_seconds summary\n"
            "wyvern_time_seconds_sum 0.25\nwyvern_time_seconds_count 2\n");
  EXPECT_EQ(FamilySet().Text(), "");
}

TEST(FamilyTest, LabelValuesAreEscapedPrintableAndCut) {
  FamilySet set;
  set.Add(kReads, {{"id", "a\"b\\c\nd\x1b\xc3\xa9"}}, 1);
  EXPECT_THAT(set.Text(), HasSubstr("{id=\"a\\\"b\\\\c?d???\"} 1\n"));
  FamilySet cut;
  cut.Add(kReads, {{"id", std::string(kMaxLabelValue + 1, 'x')}}, 1);
  EXPECT_EQ(LabelOf(cut.Find(kReads.name)->samples[0], "id"), std::string(kMaxLabelValue, 'x'));
}

TEST(FamilyTest, WhatIsNoNameIsDroppedAndCounted) {
  FamilySet set;
  for (const char* name : {"", "1a", "a b", "a{", "a\n", "a:b"}) {
    set.Add({name, MetricType::kGauge, ""}, {}, 1);
    set.Add(kReads, {{name, "v"}}, 1);
  }
  set.Add({std::string(kMaxName + 1, 'a'), MetricType::kGauge, ""}, {}, 1);
  set.Add(kReads, {}, 1, "_sum");
  set.Add({"wyvern_s", MetricType::kSummary, ""}, {}, 1);
  set.Add(kReads, Labels(kMaxLabels + 1, {"a", "b"}), 1);
  EXPECT_EQ(set.dropped(), 16U);
  EXPECT_TRUE(set.Families().empty());
  EXPECT_THAT(set.Text(), HasSubstr("\nwyvern_metrics_dropped_samples 16\n"));
}

TEST(FamilyTest, SampleThatIsThereTwiceIsDropped) {
  FamilySet set;
  set.Add(kReads, {{"a", "1"}, {"b", "2"}}, 1);
  set.Add(kReads, {{"a", "1"}, {"b", "2"}}, 5);
  set.Add(kReads, {{"a", "\x01"}}, 2);
  set.Add(kReads, {{"a", "\x02"}}, 3);  // the same once it is printable
  set.Add(kReads, {}, 4);
  EXPECT_EQ(set.Find(kReads.name)->samples.size(), 3U);
  EXPECT_EQ(set.dropped(), 2U);
  FamilySet other;
  other.Add(kReads, {}, 9);
  set.Merge(std::move(other));
  EXPECT_EQ(set.dropped(), 3U);
}

TEST(FamilyTest, OneNameHasOneType) {
  FamilySet set;
  set.Add(kReads, {}, 1);
  set.Add({kReads.name, MetricType::kGauge, "other"}, {}, 2);
  ASSERT_EQ(set.Families().size(), 1U);
  EXPECT_EQ(set.Families()[0].samples.size(), 1U);
  EXPECT_EQ(set.dropped(), 1U);
}

TEST(FamilyTest, NumbersOfFamiliesAndSamplesAreBounded) {
  FamilySet set;
  for (size_t i = 0; i < kMaxFamilies + 3; ++i) {
    const std::string name = "f" + std::to_string(i);
    set.Add({name, MetricType::kGauge, ""}, {}, 1);
  }
  EXPECT_EQ(set.Families().size(), kMaxFamilies);
  for (size_t i = 0; i < kMaxSamples + 2; ++i) {
    set.Add({"f0", MetricType::kGauge, ""}, {{"i", std::to_string(i)}}, 1);
  }
  EXPECT_EQ(set.Find("f0")->samples.size(), kMaxSamples);
  EXPECT_EQ(set.dropped(), 6U);
}

TEST(FamilyTest, MergeKeepsAFamilyTogether) {
  FamilySet one;
  one.Add(kReads, {{"sandbox", "a"}}, 1);
  FamilySet two;
  two.Add(kReads, {{"sandbox", "b"}}, 2);
  two.Add({"wyvern_x", MetricType::kGauge, "X"}, {}, 3);
  one.Merge(std::move(two));
  EXPECT_THAT(one.Text(), HasSubstr("{sandbox=\"a\"} 1\nwyvern_reads_total{sandbox=\"b\"} 2\n"));
  EXPECT_THAT(one.Text(), HasSubstr("wyvern_x 3\n"));
  EXPECT_THAT(one.Text(), Not(HasSubstr("dropped")));
}

TEST(FamilyTest, ValuesAreShortAndExact) {
  EXPECT_EQ(FormatValue(0), "0");
  EXPECT_EQ(FormatValue(-3), "-3");
  EXPECT_EQ(FormatValue(9007199254740992), "9007199254740992");
  EXPECT_EQ(FormatValue(0.1), "0.1");
  EXPECT_EQ(FormatValue(static_cast<double>(UINT64_MAX)), "1.8446744073709552e+19");
  EXPECT_EQ(FormatValue(std::numeric_limits<double>::quiet_NaN()), "NaN");
  EXPECT_EQ(FormatValue(std::numeric_limits<double>::infinity()), "+Inf");
  EXPECT_EQ(FormatValue(-std::numeric_limits<double>::infinity()), "-Inf");
}

}  // namespace
}  // namespace wyvern::observe
