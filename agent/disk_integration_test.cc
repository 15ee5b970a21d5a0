// Disks of a real agent, in a sysfs of its own: what AddDisk and RemoveDisk answer, and in which order.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <thread>

#include "agent/testing/agent_process.h"

namespace wyvern::agent {
namespace {

using testing::HasSubstr;

class DiskTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNotHere().empty()) {
      GTEST_SKIP() << WhyNotHere();
    }
    agent = std::make_unique<AgentProcess>();
  }

  static v1::AddDiskRequest Disk(const std::string& serial, const std::string& filesystem = "") {
    v1::AddDiskRequest request;
    request.set_serial(serial);
    request.set_filesystem(filesystem);
    request.set_deadline_ms(50);
    return request;
  }

  Result<v1::AddDiskResponse> Add(const v1::AddDiskRequest& request) {
    return agent->Call<v1::AddDiskResponse>("AddDisk", request);
  }

  Result<v1::RemoveDiskResponse> Remove(const std::string& serial) {
    v1::RemoveDiskRequest request;
    request.set_serial(serial);
    return agent->Call<v1::RemoveDiskResponse>("RemoveDisk", request);
  }

  void AddToSysfs(const std::string& node, const std::string& serial) const {
    const std::string directory = agent->dir() + "/sys/block/" + node;
    std::filesystem::create_directories(directory);
    for (const auto& [file, text] : {std::pair("dev", "4000:1\n"), std::pair("size", "8\n"),
                                     std::pair("ro", "0\n"), std::pair("serial", serial.c_str())}) {
      ASSERT_TRUE(WriteFile(directory + "/" + file, text).has_value());
    }
  }

  std::unique_ptr<AgentProcess> agent;
};

TEST_F(DiskTest, BadRequestsAreRefused) {
  EXPECT_EQ(CodeOf(Add(Disk("../x"))), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Add(Disk("c0", "../x"))), Code::kInvalidArgument);
  auto request = Disk("c0", "ext4");
  request.set_flags(MS_BIND);
  EXPECT_EQ(CodeOf(Add(request)), Code::kInvalidArgument);
  request = Disk("c0", "ext4");
  request.set_options(std::string(5000, 'x'));
  EXPECT_EQ(CodeOf(Add(request)), Code::kInvalidArgument);
  request = Disk("c0");
  request.set_deadline_ms(100'000);
  EXPECT_EQ(CodeOf(Add(request)), Code::kInvalidArgument);
}

TEST_F(DiskTest, OneThatDoesNotComeIsNotFoundAndMayComeLater) {
  const auto missing = Add(Disk("c0-root"));
  ASSERT_EQ(CodeOf(missing), Code::kNotFound);
  EXPECT_THAT(missing.error().message(), HasSubstr("c0-root"));
  AddToSysfs("vdx", "c0-root");
  const auto added = Add(Disk("c0-root"));
  ASSERT_TRUE(added.has_value()) << added.error().message();
  EXPECT_EQ(added->major(), 4000U);
  EXPECT_EQ(added->minor(), 1U);
  EXPECT_EQ(added->bytes(), 4096U);
  EXPECT_EQ(CodeOf(Add(Disk("c0-root"))), Code::kAlreadyExists);
  EXPECT_TRUE(Remove("c0-root").has_value());
  EXPECT_TRUE(Remove("c0-root").has_value());
  EXPECT_TRUE(Add(Disk("c0-root")).has_value());
}

TEST_F(DiskTest, WhatTheKernelRefusesIsTypedAndLeavesNothing) {
  AddToSysfs("vdx", "c0-root");  // there is no such node
  const auto refused = Add(Disk("c0-root", "ext4"));
  ASSERT_EQ(CodeOf(refused), Code::kFailedPrecondition);
  EXPECT_THAT(refused.error().message(), HasSubstr("ext4"));
  EXPECT_NE(access("/run/wyvern/disks/c0-root", F_OK), 0);
  EXPECT_EQ(CodeOf(Add(Disk("c0-root", "nosuchfs"))), Code::kUnimplemented);
  EXPECT_TRUE(Add(Disk("c0-root")).has_value());
}

TEST_F(DiskTest, UsageIsOfDisksThatAreMounted) {
  v1::DiskUsageRequest request;
  request.set_serial("../../etc");
  EXPECT_EQ(CodeOf(agent->Call<v1::DiskUsageResponse>("DiskUsage", request)), Code::kNotFound);
  AddToSysfs("vdx", "c0-d0");
  ASSERT_TRUE(Add(Disk("c0-d0")).has_value());
  request.set_serial("c0-d0");
  request.set_grow(true);
  EXPECT_EQ(CodeOf(agent->Call<v1::DiskUsageResponse>("DiskUsage", request)),
            Code::kFailedPrecondition);
}

TEST_F(DiskTest, RemovalWaitsForWhatIsBeingAdded) {
  auto request = Disk("c0-root");
  request.set_deadline_ms(20'000);
  auto added = std::async(std::launch::async, [&] {
    Code code = Code::kAlreadyExists;  // while one of the looks below is under way
    while (code == Code::kAlreadyExists) {
      code = CodeOf(Add(request));
    }
    return code;
  });
  auto look = request;
  look.set_deadline_ms(1);
  while (CodeOf(Add(look)) != Code::kAlreadyExists) {
    std::this_thread::sleep_for(10ms);
  }
  auto removed = std::async(std::launch::async, [&] { return CodeOf(Remove("c0-root")); });
  EXPECT_EQ(removed.wait_for(100ms), std::future_status::timeout);
  AddToSysfs("vdx", "c0-root");
  EXPECT_EQ(added.get(), Code::kOk);
  EXPECT_EQ(removed.get(), Code::kOk);
  EXPECT_TRUE(Add(Disk("c0-root")).has_value());
}

}  // namespace
}  // namespace wyvern::agent
