#include "task/call_scope.h"

#include <gtest/gtest.h>

namespace wyvern::shim {
namespace {

constexpr char kHeader[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(TraceparentTest, TheStandardsExample) {
  const auto trace = ParseTraceparent(kHeader);
  ASSERT_TRUE(trace.has_value());
  EXPECT_EQ(trace->trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(trace->span_id, "00f067aa0ba902b7");
}

TEST(TraceparentTest, LaterVersionsMayHaveMoreFields) {
  const std::string later = "cc" + std::string(kHeader).substr(2);
  EXPECT_TRUE(ParseTraceparent(later));
  EXPECT_TRUE(ParseTraceparent(later + "-what-comes"));
  EXPECT_FALSE(ParseTraceparent(later + ".what"));
  EXPECT_FALSE(ParseTraceparent(std::string(kHeader) + "-what"));
  EXPECT_FALSE(ParseTraceparent("ff" + std::string(kHeader).substr(2)));
}

TEST(TraceparentTest, WhatIsNotOneIsNone) {
  const std::string header = kHeader;
  EXPECT_FALSE(ParseTraceparent(""));
  for (size_t size = 0; size < header.size(); ++size) {
    EXPECT_FALSE(ParseTraceparent(header.substr(0, size))) << size;
  }
  for (size_t at = 0; at < header.size(); ++at) {
    for (const char wrong : {'G', 'A', ' ', '\n', '\0', '\xff'}) {
      std::string changed = header;
      changed[at] = wrong;
      EXPECT_FALSE(ParseTraceparent(changed)) << at;
    }
  }
  EXPECT_FALSE(ParseTraceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01"));
  EXPECT_FALSE(ParseTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"));
}

}  // namespace
}  // namespace wyvern::shim
