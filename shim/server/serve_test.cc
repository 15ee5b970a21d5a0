#include "server/serve.h"

#include <gtest/gtest.h>

namespace wyvern::shim {
namespace {

TEST(ServeTest, ConfiguredLogLevelHoldsUnlessContainerdDebugs) {
  SetLogLevel(LogLevel::kInfo);
  UseLogLevel(LogLevel::kWarn);
  EXPECT_EQ(GetLogLevel(), LogLevel::kWarn);
  SetLogLevel(LogLevel::kDebug);  // as -debug does
  UseLogLevel(LogLevel::kWarn);
  EXPECT_EQ(GetLogLevel(), LogLevel::kDebug);
}

}  // namespace
}  // namespace wyvern::shim
