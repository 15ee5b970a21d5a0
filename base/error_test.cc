#include "base/error.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace wyvern {
namespace {

Result<int> Half(int n) {
  if (n % 2 != 0) {
    return Fail(Code::kInvalidArgument, "odd");
  }
  return n / 2;
}

Result<int> Quarter(int n) {
  WV_TRY(const int half, Half(n));
  WV_TRY_CONTEXT(const int quarter, Half(half), "second half");
  return quarter;
}

TEST(ErrorTest, ResultOfIntIsTwoWords) {
  EXPECT_EQ(sizeof(Result<int>), 16U);
}

TEST(ErrorTest, TryPassesValuesAndErrors) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Quarter(3).error().message(), "odd");
  EXPECT_EQ(Quarter(6).error().message(), "second half: odd");
  EXPECT_EQ(Quarter(6).error().code(), Code::kInvalidArgument);
}

TEST(ErrorTest, SysErrorKeepsErrnoAndMapsTheCode) {
  errno = ENOENT;
  const Error error = SysError("open /x").value();
  EXPECT_EQ(error.sys_errno(), ENOENT);
  EXPECT_EQ(error.code(), Code::kNotFound);
  EXPECT_EQ(error.message(), "open /x: No such file or directory");
  EXPECT_NE(error.DebugString().find("error_test.cc"), std::string::npos);
}

}  // namespace
}  // namespace wyvern
