#include "base/log.h"

#include <gtest/gtest.h>

namespace wyvern {
namespace {

TEST(LogTest, ControlCharactersCannotForgeALine) {
  testing::internal::CaptureStderr();
  LogLine(LogLevel::kWarn, "guest said: \n2026-01-01T00:00:00.000Z INFO forged\x1b[0m");
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  EXPECT_NE(line.find("\\x0a"), std::string::npos);
  EXPECT_NE(line.find("\\x1b"), std::string::npos);
}

TEST(LogTest, LevelsHaveNames) {
  for (const auto level : {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarn, LogLevel::kError}) {
    EXPECT_EQ(ParseLogLevel(LogLevelName(level)), level);
  }
  EXPECT_EQ(LogLevelName(LogLevel::kWarn), "warn");
  for (const char* name : {"", "loud", "INFO", "info ", "0"}) {
    EXPECT_FALSE(ParseLogLevel(name).has_value()) << name;
  }
}

TEST(LogTest, WhatIsBelowTheLevelIsNotSaid) {
  SetLogLevel(LogLevel::kError);
  testing::internal::CaptureStderr();
  WV_WARN("a warning");
  WV_WARN_LIMITED("a warning");
  WV_ERROR("an error");
  const std::string lines = testing::internal::GetCapturedStderr();
  SetLogLevel(LogLevel::kInfo);
  EXPECT_EQ(lines.find("a warning"), std::string::npos) << lines;
  EXPECT_NE(lines.find("an error"), std::string::npos) << lines;
}

TEST(LogTest, LimiterPassesTheBurstAndCountsTheRest) {
  LogLimiter limiter(2, std::chrono::hours(1));
  uint64_t suppressed = 0;
  EXPECT_TRUE(limiter.Allow(&suppressed));
  EXPECT_TRUE(limiter.Allow(&suppressed));
  EXPECT_FALSE(limiter.Allow(&suppressed));
  EXPECT_EQ(suppressed, 0U);
}

TEST(LogTest, LimiterReportsWhatItDropped) {
  LogLimiter limiter(1, std::chrono::milliseconds(1));
  uint64_t suppressed = 0;
  ASSERT_TRUE(limiter.Allow(&suppressed));
  uint64_t dropped = 0;
  while (!limiter.Allow(&suppressed)) {
    ++dropped;
  }
  EXPECT_EQ(suppressed, dropped);
}

}  // namespace
}  // namespace wyvern
