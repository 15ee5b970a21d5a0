#include "control/exec_spec.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace wyvern::shim {
namespace {

using nlohmann::json;

constexpr const char* kConfig =
    R"({"process":{"args":["sh"],"env":["PATH=/bin","A=1"],"cwd":"/srv","terminal":true,"user":{"uid":7,"gid":8},
        "capabilities":{"bounding":["CAP_KILL"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":10,"soft":10}]}})";

wyvern::control::v1::ExecRequest Request() {
  wyvern::control::v1::ExecRequest request;
  request.add_args("id");
  return request;
}

TEST(ExecSpecTest, ContainersOwnProcessWithTheCommandPutOver) {
  auto request = Request();
  request.add_env("A=2");
  request.add_env("B=3");
  const auto text = MakeExecSpec(kConfig, request);
  ASSERT_TRUE(text);
  const json process = json::parse(*text);
  EXPECT_EQ(process["args"], json({"id"}));
  EXPECT_EQ(process["env"], json({"PATH=/bin", "A=2", "B=3"}));
  EXPECT_EQ(process["cwd"], "/srv");
  EXPECT_EQ(process["terminal"], false);
  EXPECT_EQ(process["user"]["uid"], 7);
  EXPECT_EQ(process["capabilities"]["bounding"], json({"CAP_KILL"}));
  EXPECT_EQ(process["rlimits"].size(), 1U);
}

TEST(ExecSpecTest, UserDirectoryAndTerminalAreTaken) {
  auto request = Request();
  request.set_user("100:200");
  request.set_cwd("/tmp");
  request.set_terminal(true);
  request.set_rows(24);
  request.set_columns(80);
  const json process = json::parse(*MakeExecSpec(kConfig, request));
  EXPECT_EQ(process["user"], json({{"uid", 100}, {"gid", 200}}));
  EXPECT_EQ(process["cwd"], "/tmp");
  EXPECT_EQ(process["terminal"], true);
  EXPECT_EQ(process["consoleSize"]["height"], 24);
}

TEST(ExecSpecTest, GuestHasAPlainRootProcess) {
  auto request = Request();
  request.add_env("HOME=/tmp");
  const json process = json::parse(*MakeExecSpec("", request));
  EXPECT_EQ(process["args"], json({"id"}));
  EXPECT_EQ(process["user"]["uid"], 0);
  EXPECT_EQ(process["env"].size(), 2U);
  EXPECT_EQ(process["env"][1], "HOME=/tmp");
  EXPECT_EQ(process["cwd"], "/");
}

TEST(ExecSpecTest, WhatIsWrongIsRefused) {
  EXPECT_FALSE(MakeExecSpec(kConfig, wyvern::control::v1::ExecRequest()));
  EXPECT_FALSE(MakeExecSpec("not json", Request()));
  EXPECT_FALSE(MakeExecSpec("{}", Request()));
  EXPECT_FALSE(MakeExecSpec(R"({"process":[]})", Request()));
  for (const char* const user : {"root", "1:", ":1", "1:2:3", "-1", "99999999999"}) {
    auto request = Request();
    request.set_user(user);
    EXPECT_FALSE(MakeExecSpec(kConfig, request)) << user;
  }
}

}  // namespace
}  // namespace wyvern::shim
