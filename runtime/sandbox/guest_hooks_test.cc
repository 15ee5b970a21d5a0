#include "sandbox/guest_hooks.h"

#include <gtest/gtest.h>

#include "base/testing/must.h"

namespace wyvern::runtime {
namespace {

agent_pb::CreateSandboxResponse Answer(const std::string& kind, const std::string& path) {
  agent_pb::CreateSandboxResponse answer;
  agent_pb::GuestHook* hook = answer.add_hooks();
  hook->set_kind(kind);
  hook->set_path(path);
  return answer;
}

TEST(GuestHooksTest, WhatTheGuestHas) {
  EXPECT_TRUE(Must(CheckGuestHooks({}, "")).empty());
  const auto hooks = CheckGuestHooks(Answer("poststop", "/h/poststop/10-a"), "/h");
  ASSERT_TRUE(hooks.has_value());
  ASSERT_EQ(hooks->size(), 1U);
  EXPECT_EQ(hooks->front().kind, "poststop");
  EXPECT_EQ(hooks->front().path, "/h/poststop/10-a");
}

TEST(GuestHooksTest, AnswersThatNoGuestOfOursGives) {
  const auto refused = [](const agent_pb::CreateSandboxResponse& answer, const char* directory) {
    const auto hooks = CheckGuestHooks(answer, directory);
    return !hooks.has_value() && hooks.error().code() == Code::kInternal;
  };
  EXPECT_TRUE(refused(Answer("startContainer", "/h/startContainer/a"), "/h"));
  EXPECT_TRUE(refused(Answer("prestart", "/bin/sh"), "/h"));
  EXPECT_TRUE(refused(Answer("prestart", "/h/poststop/a"), "/h"));
  EXPECT_TRUE(refused(Answer("prestart", "/prestart/a"), ""));  // none were asked for
  EXPECT_TRUE(refused(Answer("prestart", "/h/prestart/\xff"), "/h"));
  EXPECT_TRUE(refused(Answer("prestart", "/h/prestart/" + std::string(4096, 'a')), "/h"));
  agent_pb::CreateSandboxResponse many;
  for (int i = 0; i < 65; ++i) {
    many.MergeFrom(Answer("prestart", "/h/prestart/a"));
  }
  EXPECT_TRUE(refused(many, "/h"));
}

}  // namespace
}  // namespace wyvern::runtime
