#include "agent/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace wyvern::agent {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using What = Policy::What;

TEST(PolicyTest, WithoutOneEverythingIsAllowed) {
  const Policy policy(std::nullopt);
  EXPECT_FALSE(policy.limits());
  for (size_t i = 0; i < Policy::kNames.size(); ++i) {
    EXPECT_TRUE(policy.Check(static_cast<What>(i)).has_value()) << Policy::kNames[i];
  }
  EXPECT_EQ(policy.refused(), 0U);
}

TEST(PolicyTest, WhatIsNotListedIsRefusedByItsNameAndCounted) {
  const Policy policy("signal,files");
  EXPECT_TRUE(policy.limits());
  EXPECT_THAT(policy.allowed(), ElementsAre("signal", "files"));
  EXPECT_TRUE(policy.Check(What::kSignal).has_value());
  EXPECT_TRUE(policy.Check(What::kFiles).has_value());
  const auto refused = policy.Check(What::kGuestExec);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kPermissionDenied);
  EXPECT_THAT(refused.error().message(), HasSubstr("guest.allow did not list guest_exec"));
  EXPECT_FALSE(policy.Check(What::kExec).has_value());
  EXPECT_EQ(policy.refused(), 2U);
}

TEST(PolicyTest, AnEmptyListAllowsNothing) {
  const Policy policy("");
  EXPECT_TRUE(policy.limits());
  EXPECT_THAT(policy.allowed(), IsEmpty());
  for (size_t i = 0; i < Policy::kNames.size(); ++i) {
    EXPECT_FALSE(policy.Check(static_cast<What>(i)).has_value()) << Policy::kNames[i];
  }
}

TEST(PolicyTest, WhatIsNotANameAllowsNothing) {
  for (const char* text : {",", ",,exec2", "EXEC", " exec", "exec ", "all", "*", "e,x,e,c"}) {
    EXPECT_THAT(Policy(text).allowed(), IsEmpty()) << text;
  }
  EXPECT_THAT(Policy(",no,exec,exec,").allowed(), ElementsAre("exec"));
}

}  // namespace
}  // namespace wyvern::agent
