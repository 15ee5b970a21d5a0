#include "base/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace wyvern {
namespace {

TEST(FdTest, EveryDescriptorIsCloseOnExec) {
  const UniqueFd file = *Open("/dev/null", O_RDONLY);
  EXPECT_EQ(fcntl(file.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(file.Duplicate()->get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(MakePipe()->read.get(), F_GETFD), FD_CLOEXEC);
}

TEST(FdTest, MissingFileNamesThePath) {
  const auto result = Open("/nonexistent/file", O_RDONLY);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Code::kNotFound);
  EXPECT_NE(result.error().message().find("/nonexistent/file"), std::string::npos);
}

TEST(FdTest, ReadToEndRefusesMoreThanTheLimit) {
  const PipePair pipe = *MakePipe();
  ASSERT_TRUE(WriteAll(pipe.write, std::string_view("12345")));
  EXPECT_EQ(ReadToEnd(pipe.read, 4).error().code(), Code::kResourceExhausted);
}

TEST(FdTest, ReadExactFailsAtAnEarlyEnd) {
  PipePair pipe = *MakePipe();
  ASSERT_TRUE(WriteAll(pipe.write, std::string_view("ab")));
  pipe.write.Reset();
  std::array<std::byte, 3> buffer{};
  EXPECT_EQ(ReadExact(pipe.read, buffer).error().code(), Code::kOutOfRange);
}

TEST(FdTest, WriteFileAtomicallyReplacesAndLeavesNoTemporary) {
  const std::string path = testing::TempDir() + "wyvern_fd_test";
  ASSERT_TRUE(WriteFileAtomically(path, "one", 0600));
  ASSERT_TRUE(WriteFileAtomically(path, "two", 0600));
  EXPECT_EQ(*ReadFile(path), "two");
  EXPECT_NE(access((path + ".new").c_str(), F_OK), 0);
  unlink(path.c_str());
}

TEST(FdTest, MoveLeavesNothingBehind) {
  UniqueFd first = *Open("/dev/null", O_RDONLY);
  const int number = first.get();
  const UniqueFd second = std::move(first);
  EXPECT_EQ(second.get(), number);
  EXPECT_FALSE(
      first.valid());  // NOLINT(bugprone-use-after-move): the moved-from state is what is tested
}

}  // namespace
}  // namespace wyvern
