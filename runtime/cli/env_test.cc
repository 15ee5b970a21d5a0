#include "cli/env.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <string>

namespace wyvern::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;

Environment Some() {
  Environment environment;
  environment.version = "0.1.0";
  environment.kernel = "6.1.0";
  environment.cpus = 4;
  environment.memory_bytes = 8U << 30U;
  environment.kvm = {api::KvmState::kInterprets, "slow \xff", "another host"};
  environment.guest_kernel = {"/boot/k", 42, "6.12.1"};
  environment.config = runtime::BuiltInConfig();
  environment.findings = {{"kvm", Verdict::kMissing, "slow", "another host"}};
  return environment;
}

TEST(EnvTest, EveryDocumentedFieldIsThere) {
  const json document = json::parse(EnvironmentText(Some(), /*json=*/true));
  EXPECT_EQ(document["format"], 1);
  for (const char* pointer : {"/wyvern/version",
                              "/wyvern/program",
                              "/wyvern/installed",
                              "/host/os",
                              "/host/kernel",
                              "/host/machine",
                              "/host/cpus",
                              "/host/memory_bytes",
                              "/host/kvm/state",
                              "/host/kvm/text",
                              "/containerd",
                              "/programs/vmm/path",
                              "/programs/fs/present",
                              "/programs/anchor/path",
                              "/programs/shim/path",
                              "/guest/name",
                              "/guest/kernel/path",
                              "/guest/kernel/bytes",
                              "/guest/kernel/release",
                              "/guest/image",
                              "/guest/initrd",
                              "/configuration/sandbox.memory/value",
                              "/configuration/sandbox.memory/origin",
                              "/check/0/remedy"}) {
    EXPECT_TRUE(document.contains(json::json_pointer(pointer))) << pointer;
  }
  EXPECT_EQ(document["host"]["kvm"]["state"], "interprets");
  EXPECT_EQ(document["configuration"]["sandbox.memory"]["value"], "256MiB");
  EXPECT_EQ(document["configuration"].size(), runtime::KeyDocuments().size());
}

TEST(EnvTest, WhatIsNotKnownIsNull) {
  const json document = json::parse(EnvironmentText(Some(), /*json=*/true));
  EXPECT_TRUE(document["containerd"].is_null());
  EXPECT_TRUE(document["wyvern"]["installed"].is_null());
  EXPECT_TRUE(document["guest"]["initrd"].is_null());
  EXPECT_FALSE(document["programs"]["shim"]["present"].get<bool>());
}

TEST(EnvTest, PeopleGetALineForEachFact) {
  const std::string text = EnvironmentText(Some(), /*json=*/false);
  EXPECT_THAT(text, HasSubstr("guest.kernel.release: 6.12.1\n"));
  EXPECT_THAT(text, HasSubstr("configuration.sandbox.memory.value: 256MiB\n"));
}

TEST(EnvTest, ThisHostHasWhatEveryHostHas) {
  const Environment environment = LookAround(runtime::BuiltInConfig());
  EXPECT_GT(environment.cpus, 0U);
  EXPECT_GT(environment.memory_bytes, 0U);
  EXPECT_FALSE(environment.findings.empty());
  EXPECT_THAT(environment.program, HasSubstr("test"));
}

}  // namespace
}  // namespace wyvern::cli
