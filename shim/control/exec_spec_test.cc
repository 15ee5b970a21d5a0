#include "control/exec_spec.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace wyvern::shim {
namespace {

using nlohmann::json;

constexpr const char* kConfig =
    R"({"process":{"args":["sh"],"env":["PATH=/bin","A=1"],"cwd":"/srv","terminal":true,"user":{"uid":7,"gid":8},
        "capabilities":{"bounding":["CAP_KILL"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":10,"soft":10}]},
        "root":{"path":"rootfs"}})";

wyvern::control::v1::ExecRequest Request() {
  wyvern::control::v1::ExecRequest request;
  request.add_args("id");
  return request;
}

Result<runtime::UserFiles> NobodyIsAsked(const std::string& root_path) {
  ADD_FAILURE() << root_path;
  return runtime::UserFiles();
}

Result<runtime::UserFiles> UsersOfRootfs(const std::string& root_path) {
  EXPECT_EQ(root_path, "rootfs");
  return runtime::UserFiles{"web:x:33:44::/:\n", "log:x:5:web\nadm:x:4:\n"};
}

TEST(ExecSpecTest, ContainersOwnProcessWithTheCommandPutOver) {
  auto request = Request();
  request.add_env("A=2");
  request.add_env("B=3");
  const auto text = MakeExecSpec(kConfig, request, NobodyIsAsked);
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
  const json process = json::parse(*MakeExecSpec(kConfig, request, UsersOfRootfs));
  EXPECT_EQ(process["user"], json({{"uid", 100}, {"gid", 200}, {"additionalGids", {200}}}));
  EXPECT_EQ(process["cwd"], "/tmp");
  EXPECT_EQ(process["terminal"], true);
  EXPECT_EQ(process["consoleSize"]["height"], 24);
}

TEST(ExecSpecTest, GuestHasAPlainRootProcess) {
  auto request = Request();
  request.add_env("HOME=/tmp");
  const json process = json::parse(*MakeExecSpec("", request, NobodyIsAsked));
  EXPECT_EQ(process["args"], json({"id"}));
  EXPECT_EQ(process["user"]["uid"], 0);
  EXPECT_EQ(process["env"].size(), 2U);
  EXPECT_EQ(process["env"][1], "HOME=/tmp");
  EXPECT_EQ(process["cwd"], "/");
}

TEST(ExecSpecTest, UserOfTheContainerHasItsGroups) {
  auto request = Request();
  request.set_user("web");
  EXPECT_EQ(json::parse(*MakeExecSpec(kConfig, request, UsersOfRootfs))["user"],
            json({{"uid", 33}, {"gid", 44}, {"additionalGids", {44, 5}}}));
  request.set_user("web:adm");
  EXPECT_EQ(json::parse(*MakeExecSpec(kConfig, request, UsersOfRootfs))["user"],
            json({{"uid", 33}, {"gid", 4}, {"additionalGids", {4}}}));
  request.set_user("absent");
  const auto absent = MakeExecSpec(kConfig, request, UsersOfRootfs);
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().message(),
            "the user in the container: /etc/passwd has no user \"absent\"");
}

TEST(ExecSpecTest, UsersOfTheGuestItselfAreNumbers) {
  auto request = Request();
  request.set_user("1:2");
  EXPECT_EQ(json::parse(*MakeExecSpec("", request, NobodyIsAsked))["user"],
            json({{"uid", 1}, {"gid", 2}}));
  request.set_user("root");
  const auto named = MakeExecSpec("", request, NobodyIsAsked);
  ASSERT_FALSE(named);
  EXPECT_EQ(named.error().code(), Code::kInvalidArgument);
}

TEST(ExecSpecTest, WhatIsWrongIsRefused) {
  EXPECT_FALSE(MakeExecSpec(kConfig, wyvern::control::v1::ExecRequest(), NobodyIsAsked));
  EXPECT_FALSE(MakeExecSpec("not json", Request(), NobodyIsAsked));
  EXPECT_FALSE(MakeExecSpec("{}", Request(), NobodyIsAsked));
  EXPECT_FALSE(MakeExecSpec(R"({"process":[]})", Request(), NobodyIsAsked));
  for (const char* const user : {"root", ":1", "1:2:3", "-1", "99999999999"}) {
    auto request = Request();
    request.set_user(user);
    EXPECT_FALSE(MakeExecSpec(kConfig, request, UsersOfRootfs)) << user;
  }
  auto request = Request();
  request.set_user("web");
  for (const char* const root : {"", R"(,"root":7)", R"(,"root":{})", R"(,"root":{"path":7})"}) {
    const std::string config = std::string(R"({"process":{})") + root + "}";
    EXPECT_FALSE(MakeExecSpec(config, request, NobodyIsAsked)) << config;
  }
}

}  // namespace
}  // namespace wyvern::shim
