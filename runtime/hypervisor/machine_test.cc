#include "hypervisor/machine.h"

#include <gtest/gtest.h>

namespace wyvern::runtime {
namespace {

using std::chrono::milliseconds;

TEST(MachineTest, ProcessesHaveASecondMoreToEndForEachFourGibibytes) {
  EXPECT_EQ(EndLimit(0), milliseconds(1000));
  EXPECT_EQ(EndLimit(512ULL << 20U), milliseconds(1125));
  EXPECT_EQ(EndLimit(4ULL << 30U), milliseconds(2000));
  EXPECT_EQ(EndLimit(256ULL << 30U), milliseconds(65000));
}

}  // namespace
}  // namespace wyvern::runtime
