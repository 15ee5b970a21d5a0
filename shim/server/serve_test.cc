#include "server/serve.h"

#include <gtest/gtest.h>

namespace wyvern::shim {
namespace {

TEST(ServeTest, ConfiguredLogLevelHoldsUnlessContainerdDebugs) {
  SetLogLevel(LogLevel::kInfo);
  UseLog(LogLevel::kWarn, false);
  EXPECT_EQ(GetLogLevel(), LogLevel::kWarn);
  SetLogLevel(LogLevel::kDebug);  // as -debug does
  UseLog(LogLevel::kWarn, false);
  EXPECT_EQ(GetLogLevel(), LogLevel::kDebug);
}

}  // namespace
}  // namespace wyvern::shim
