#include "base/plain_text.h"

#include <gtest/gtest.h>

namespace wyvern {
namespace {

TEST(PlainTextTest, IsShortAndPrintable) {
  EXPECT_EQ(PlainText("a\x1b[2Jb\n\xc3\xa9", 100), "a?[2Jb???");
  EXPECT_EQ(PlainText(std::string(5000, 'x'), 200).size(), 200U);
}

}  // namespace
}  // namespace wyvern
