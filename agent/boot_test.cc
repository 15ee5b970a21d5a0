#include "agent/boot.h"

#include <gtest/gtest.h>

namespace wyvern::agent {
namespace {

TEST(KernelCommandLineTest, WordsValuesAndQuotes) {
  const auto words =
      ParseKernelCommandLine("console=ttyS0 quiet root=/dev/pmem0 a=b=c \"x=two words\" empty=\n");
  EXPECT_EQ(words.size(), 6U);
  EXPECT_EQ(words.at("console"), "ttyS0");
  EXPECT_EQ(words.at("quiet"), "");
  EXPECT_EQ(words.at("root"), "/dev/pmem0");
  EXPECT_EQ(words.at("a"), "b=c");
  EXPECT_EQ(words.at("x"), "two words");
  EXPECT_EQ(words.at("empty"), "");
}

TEST(KernelCommandLineTest, NothingAndUnbalancedQuotes) {
  EXPECT_TRUE(ParseKernelCommandLine("").empty());
  EXPECT_TRUE(ParseKernelCommandLine(" \n\t").empty());
  EXPECT_EQ(ParseKernelCommandLine("a=\"b c").at("a"), "b c");
}

TEST(KernelCommandLineTest, LogLevelIsItsWordOrInfo) {
  EXPECT_EQ(LogLevelFrom(ParseKernelCommandLine("quiet wyvern.log=error")), LogLevel::kError);
  EXPECT_EQ(LogLevelFrom(ParseKernelCommandLine("wyvern.log=info wyvern.log=debug")),
            LogLevel::kDebug);
  for (const char* line : {"", "wyvern.log", "wyvern.log=", "wyvern.log=loud"}) {
    EXPECT_EQ(LogLevelFrom(ParseKernelCommandLine(line)), LogLevel::kInfo) << line;
  }
}

}  // namespace
}  // namespace wyvern::agent
