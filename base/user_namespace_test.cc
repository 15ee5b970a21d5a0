#include "base/user_namespace.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <limits>

#include "base/testing/must.h"

namespace wyvern {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr uint32_t kMax = std::numeric_limits<uint32_t>::max();

std::string Refusal(std::vector<IdRange> users, std::vector<IdRange> groups) {
  const auto checked = CheckIdMap({std::move(users), std::move(groups)});
  return checked.has_value() ? "" : checked.error().message();
}

TEST(UserNamespaceTest, MapsThatCannotBeAreRefused) {
  const std::vector<IdRange> good = {{0, 1000, 10}};
  EXPECT_THAT(Refusal({}, good), HasSubstr("users: 0 ranges"));
  EXPECT_THAT(Refusal(good, {}), HasSubstr("groups: 0 ranges"));
  EXPECT_THAT(Refusal({{0, 1000, 0}}, good), HasSubstr("users in the namespace: 0 ids from 0"));
  EXPECT_THAT(Refusal({{1, 0, kMax}}, good), HasSubstr("users in the namespace"));
  EXPECT_THAT(Refusal({{0, kMax, 1}}, good), HasSubstr("users outside"));
  EXPECT_THAT(Refusal({{0, 1000, 10}, {9, 2000, 1}}, good),
              HasSubstr("users in the namespace: 9 is mapped twice"));
  EXPECT_THAT(Refusal(good, {{5, 1009, 1}, {0, 1000, 5}, {20, 1000, 10}}),
              HasSubstr("groups outside: 1000 is mapped twice"));
  EXPECT_THAT(Refusal(std::vector<IdRange>(kMaxIdRanges + 1), good), HasSubstr("341 ranges"));
  EXPECT_EQ(Refusal({{0, 0, kMax}}, good), "");
}

TEST(UserNamespaceTest, RangesAreRead) {
  EXPECT_THAT(Must(ParseIdRanges("0:100000:65536,65536:5:1")),
              ElementsAre(IdRange{0, 100000, 65536}, IdRange{65536, 5, 1}));
  EXPECT_EQ(FormatIdRanges({{0, 100000, 65536}, {65536, 5, 1}}), "0:100000:65536,65536:5:1");
  for (const char* wrong : {"", ",", "0:1", "0:1:2:3", "0:1:", "a:1:2", "0:-1:2", "0:1:4294967296",
                            "0:1:2,,0:1:2", " 0:1:2", "0:1:2 "}) {
    EXPECT_FALSE(ParseIdRanges(wrong).has_value()) << wrong;
  }
  std::string many;
  for (size_t i = 0; i <= kMaxIdRanges; ++i) {
    many += i == 0 ? "0:0:1" : ",0:0:1";
  }
  EXPECT_FALSE(ParseIdRanges(many).has_value());
}

TEST(UserNamespaceTest, NamespaceHasTheMapAndLivesWithItsDescriptor) {
  if (geteuid() != 0) {
    GTEST_SKIP() << "needs root";
  }
  const auto made = MakeUserNamespace({{{0, 100000, 10}}, {{0, 200000, 10}}});
  if (!made.has_value() && made.error().sys_errno() == EPERM) {
    GTEST_SKIP() << made.error().message();
  }
  ASSERT_TRUE(made.has_value()) << made.error().message();
  EXPECT_EQ(waitpid(-1, nullptr, __WALL | WNOHANG), -1) << "a child is left";
  const pid_t child = fork();
  if (child == 0) {
    char text[128] = {};
    const bool in = setns(made->get(), CLONE_NEWUSER) == 0;
    const int file = open("/proc/self/gid_map", O_RDONLY);
    _exit(in && read(file, text, sizeof(text) - 1) > 0 &&
                  std::string_view(text).find(" 200000 ") != std::string_view::npos
              ? 0
              : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace wyvern
