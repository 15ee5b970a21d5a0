#include "control/metrics_wire.h"

#include <gmock/gmock.h>

namespace wyvern::shim {
namespace {

namespace cp = wyvern::control::v1;

using observe::FamilySet;
using observe::MetricType;

TEST(MetricsWireTest, FamiliesAreTheSameOnTheOtherSide) {
  FamilySet set;
  set.Add({"wyvern_a_total", MetricType::kCounter, "A"}, {{"x", "1"}}, 3);
  set.Add({"wyvern_b_seconds", MetricType::kSummary, "B"}, {}, 0.5, "_sum");
  set.Add({"wyvern_b_seconds", MetricType::kSummary, "B"}, {}, 2, "_count");
  set.Add({"wyvern_c", MetricType::kUntyped, "C"}, {{"y", "\"\\"}}, 4);
  set.Add({"wyvern_d", MetricType::kGauge, "D"}, {}, 5);
  set.Add({"no name", MetricType::kGauge, "dropped"}, {}, 6);
  EXPECT_EQ(FromMessage(ToMessage(set)).Text(), set.Text());
}

TEST(MetricsWireTest, WhatIsTooLargeForAMessageIsLeftOutAndCounted) {
  FamilySet set;
  const std::string label(observe::kMaxLabelValue, 'x');
  for (size_t i = 0; i < 40000; ++i) {
    set.Add({"wyvern_large", MetricType::kGauge, ""}, {{"x", label}, {"i", std::to_string(i)}}, 1);
  }
  set.Add({"wyvern_small", MetricType::kGauge, ""}, {}, 1);
  const cp::MetricsResponse message = ToMessage(set);
  EXPECT_LE(message.ByteSizeLong(), kMaxMetricsBytes + 100);
  ASSERT_EQ(message.families_size(), 1);
  EXPECT_EQ(message.families(0).name(), "wyvern_small");
  EXPECT_EQ(message.dropped(), 40000U);
  EXPECT_EQ(FromMessage(message).dropped(), 40000U);
}

TEST(MetricsWireTest, MessageOfAnotherVersionIsHeldToTheSameBounds) {
  cp::MetricsResponse message;
  auto& family = *message.add_families();
  family.set_name("bad name\n");
  family.add_samples()->set_value(1);
  auto& other = *message.add_families();
  other.set_name("wyvern_x");
  other.set_type(static_cast<cp::MetricFamily::Type>(77));
  auto& label = *other.add_samples()->add_labels();
  label.set_name("a");
  label.set_value("\x1b[2J");
  const FamilySet set = FromMessage(message);
  EXPECT_EQ(set.dropped(), 1U);
  EXPECT_THAT(set.Text(), testing::HasSubstr("# TYPE wyvern_x untyped\nwyvern_x{a=\"?[2J\"} 0\n"));
}

TEST(MetricsWireTest, EventsAreTheSameOnTheOtherSide) {
  observe::EventLog log;
  log.Add(observe::EventKind::kHotplugFailed, "c", "attach disk");
  const observe::Event event = log.Kept()[0];
  const observe::Event back = FromMessage(ToMessage(event));
  EXPECT_EQ(back.number, 1U);
  EXPECT_EQ(back.at, event.at);
  EXPECT_EQ(back.kind, event.kind);
  EXPECT_EQ(back.container, "c");
  EXPECT_EQ(back.text, "attach disk");
  cp::SandboxEvent strange;
  strange.set_kind(static_cast<cp::SandboxEvent::Kind>(200));
  strange.set_text("\x1b[2J");
  EXPECT_STREQ(observe::EventName(FromMessage(strange).kind), "unknown");
  EXPECT_EQ(FromMessage(strange).text, "?[2J");
}

}  // namespace
}  // namespace wyvern::shim
