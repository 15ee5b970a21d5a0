#include "cli/size.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

namespace wyvern::cli {
namespace {

using testing::HasSubstr;

std::string ErrorOf(const ResizeOptions& options) {
  const auto request = ToRequest(options);
  return request ? "" : request.error().message();
}

control::v1::SizeResponse SizeOf(const std::vector<uint32_t>& threads) {
  control::v1::SizeResponse size;
  for (uint32_t i = 0; i < threads.size(); ++i) {
    auto& vcpu = *size.add_vcpus();
    vcpu.set_vcpu(i);
    vcpu.set_thread(threads[i]);
  }
  size.set_max_vcpus(8);
  size.set_memory_bytes(512U << 20U);
  size.set_boot_memory_bytes(256U << 20U);
  size.set_max_memory_bytes(uint64_t{8} << 30U);
  return size;
}

TEST(SizeTest, RequestHasWhatIsGiven) {
  auto request = ToRequest({.sandbox = {}, .cpus = 4, .memory = ""});
  ASSERT_TRUE(request);
  EXPECT_EQ(request->vcpus(), 4U);
  EXPECT_EQ(request->memory_bytes(), 0U);
  request = ToRequest({.sandbox = {}, .cpus = 0, .memory = "2GiB"});
  ASSERT_TRUE(request);
  EXPECT_EQ(request->vcpus(), 0U);
  EXPECT_EQ(request->memory_bytes(), uint64_t{2} << 30U);
}

TEST(SizeTest, WhatIsNoSizeIsSaid) {
  EXPECT_THAT(ErrorOf({}), HasSubstr("nothing to resize: give --cpus, --memory, or both"));
  for (const char* bad : {"2G", "much", "-1", "1.5GiB", "99999999999999999999"}) {
    EXPECT_THAT(ErrorOf({.sandbox = {}, .cpus = 0, .memory = bad}), HasSubstr("--memory: ")) << bad;
  }
  EXPECT_THAT(ErrorOf({.sandbox = {}, .cpus = 2, .memory = "0"}), HasSubstr("needs some"));
}

TEST(SizeTest, LineIsForPeople) {
  EXPECT_EQ(SizeLine(SizeOf({7})), "1 vCPU, 512 MiB of memory\n");
  EXPECT_EQ(SizeLine(SizeOf({7, 8, 9})), "3 vCPUs, 512 MiB of memory\n");
}

TEST(SizeTest, InspectIsJsonWithTheThreads) {
  control::v1::HelloResponse sandbox;
  sandbox.set_sandbox_id("pod");
  sandbox.set_ns("k8s.io");
  sandbox.set_kernel_release("6.12\xff");
  auto& container = *sandbox.add_containers();
  container.set_id("one");
  container.set_status("running");
  container.set_anchor_pid(42);
  const auto json = nlohmann::json::parse(InspectJson(sandbox, SizeOf({70, 71})));
  EXPECT_EQ(json.at("sandbox"), "pod");
  EXPECT_EQ(json.at("namespace"), "k8s.io");
  EXPECT_EQ(json.at("containers").at(0).at("id"), "one");
  EXPECT_EQ(json.at("containers").at(0).at("pid"), 42);
  EXPECT_EQ(json.at("vcpus").at("max"), 8);
  EXPECT_EQ(json.at("vcpus").at("running").at(1).at("vcpu"), 1);
  EXPECT_EQ(json.at("vcpus").at("running").at(1).at("thread"), 71);
  EXPECT_EQ(json.at("memory").at("bytes"), 512U << 20U);
  EXPECT_EQ(json.at("memory").at("boot_bytes"), 256U << 20U);
  EXPECT_EQ(json.at("memory").at("max_bytes"), uint64_t{8} << 30U);
}

}  // namespace
}  // namespace wyvern::cli
