// What a real agent with a policy refuses, and what it cannot be denied.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "agent/policy.h"
#include "agent/testing/agent_process.h"

namespace wyvern::agent {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class PolicyIntegrationTest : public testing::Test {
 protected:
  void Start(const std::string& allow) {
    if (!WhyNotHere().empty()) {
      GTEST_SKIP() << WhyNotHere();
    }
    agent.emplace(std::vector<std::string>{"--allow", allow});
    ASSERT_TRUE(agent->Create("c", {}, {}).has_value());
    ASSERT_TRUE(agent->Start("c").has_value());
  }

  void TearDown() override {
    if (agent.has_value()) {
      // SIGKILL needs no permission.
      EXPECT_TRUE(agent->Signal("c", "", SIGKILL).has_value());
      EXPECT_EQ(agent->Wait("c"), 137);
      EXPECT_TRUE(agent->Delete("c").has_value());
    }
  }

  // What each call that a policy concerns came to, in the order of Policy::kNames but for files.
  std::vector<Code> Ask() {
    v1::AddProcessRequest in_guest;
    in_guest.set_exec_id("g");
    in_guest.mutable_guest()->add_args("/bin/true");
    v1::UpdateRequest update;
    update.set_id("c");
    update.set_resources_json("{}");
    v1::DialTcpRequest dial;
    dial.set_port(0);  // refused by its number where it is allowed
    dial.set_token(std::string(32, 't'));
    const Stdio with_input = agent->MakeStdio("i");
    return {CodeOf(agent->Exec("c", "x", {"true"}, {})),
            CodeOf(agent->Call<v1::Empty>("AddProcess", in_guest)),
            CodeOf(agent->Create("d", {}, with_input)),
            CodeOf(agent->Signal("c", "", SIGUSR1)),
            CodeOf(agent->Call<v1::Empty>("UpdateContainer", update)),
            CodeOf(agent->Call<v1::Empty>("PauseContainer", ContainerRefOf("nobody"))),
            CodeOf(agent->Call<v1::Empty>("DialTcp", dial))};
  }

  std::optional<AgentProcess> agent;
};

TEST_F(PolicyIntegrationTest, NothingIsAllowed) {
  Start("");
  constexpr Code kNo = Code::kPermissionDenied;
  EXPECT_THAT(Ask(), ElementsAre(kNo, kNo, kNo, kNo, kNo, kNo, kNo));
  const auto usage = agent->Call<v1::GuestUsageResponse>("GuestUsage", v1::Empty());
  ASSERT_TRUE(usage.has_value());
  EXPECT_EQ(usage->refused_calls(), 7U);
  EXPECT_TRUE(
      agent->Call<v1::ContainerStatsResponse>("ContainerStats", ContainerRefOf("c")).has_value());
}

TEST_F(PolicyIntegrationTest, WhatIsListedIsAllowedAndHelloTellsIt) {
  Start("exec,pause,port_forward,signal");
  constexpr Code kNo = Code::kPermissionDenied;
  EXPECT_THAT(Ask(), ElementsAre(Code::kOk, kNo, kNo, Code::kOk, kNo, Code::kNotFound,
                                 Code::kInvalidArgument));
  // An exec with input is one of both.
  const Stdio with_input = agent->MakeStdio("i");
  const auto refused = agent->Exec("c", "y", {"cat"}, with_input);
  ASSERT_FALSE(refused.has_value());
  EXPECT_THAT(refused.error().message(), HasSubstr("guest.allow did not list stdin"));
  v1::HelloRequest request;
  request.set_protocol(1);
  const auto hello = agent->Call<v1::HelloResponse>("Hello", request);
  ASSERT_TRUE(hello.has_value());
  EXPECT_THAT(hello->policy().allow(), ElementsAre("exec", "signal", "pause", "port_forward"));
}

}  // namespace
}  // namespace wyvern::agent
