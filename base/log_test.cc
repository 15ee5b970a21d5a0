#include "base/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "base/fd.h"
#include "base/testing/must.h"

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

TEST(LogTest, FieldsComeBeforeTheTextAndCannotBeForged) {
  SetLogFields({{"ns", "k8s.io"}, {"sandbox", "a b: c=d\n"}});
  testing::internal::CaptureStderr();
  {
    const LogScope scope("container", "c1");
    LogLine(LogLevel::kInfo, "text container=forged");
  }
  LogLine(LogLevel::kInfo, "without");
  std::thread([] { LogLine(LogLevel::kInfo, "another thread"); }).join();
  const std::string lines = testing::internal::GetCapturedStderr();
  SetLogFields({});
  EXPECT_NE(
      lines.find(
          " ns=k8s.io sandbox=a\\x20b\\x3a\\x20c\\x3dd\\x0a container=c1: text container=forged\n"),
      std::string::npos)
      << lines;
  EXPECT_NE(lines.find("\\x0a: without\n"), std::string::npos) << lines;
  EXPECT_NE(lines.find("\\x0a: another thread\n"), std::string::npos) << lines;
}

TEST(LogTest, LinesThatNobodyTakesAreCountedAndTold) {
  const PipePair pipe = Must(MakePipe());
  ASSERT_TRUE(SetNonBlocking(pipe.write, true));
  const UniqueFd stderr_before(dup(STDERR_FILENO));
  ASSERT_EQ(dup2(pipe.write.get(), STDERR_FILENO), STDERR_FILENO);
  const uint64_t before = DroppedLogLines();
  const std::string text(1000, 'x');
  constexpr std::string_view kDropped = " log lines were dropped\n";
  for (int i = 0; i < 100; ++i) {
    LogLine(LogLevel::kInfo, text);  // the pipe has room for 64 KiB
  }
  const uint64_t dropped = DroppedLogLines() - before;
  std::string all(1 << 20, '\0');
  const ssize_t first = read(pipe.read.get(), all.data(), all.size());
  const std::string first_text = all;
  LogLine(LogLevel::kInfo, "room again");
  const ssize_t second = read(pipe.read.get(), all.data(), all.size());
  ASSERT_EQ(dup2(stderr_before.get(), STDERR_FILENO), STDERR_FILENO);
  EXPECT_GT(dropped, 20U);
  EXPECT_LT(dropped, 60U);
  EXPECT_GT(first, 0);
  ASSERT_GT(second, 0);
  const std::string told =
      first_text.substr(0, static_cast<size_t>(first)) + all.substr(0, static_cast<size_t>(second));
  uint64_t sum = 0;
  for (size_t at = told.find(kDropped); at != std::string::npos; at = told.find(kDropped, at + 1)) {
    sum += std::stoull(told.substr(told.rfind(' ', at - 1)));
  }
  EXPECT_EQ(sum, dropped);
  EXPECT_NE(told.find(": room again\n"), std::string::npos) << told;
  EXPECT_EQ(DroppedLogLines() - before, dropped);
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
