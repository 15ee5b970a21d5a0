#include "agent/cpu_hotplug.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/testing/upcall_harness.h"

namespace wyvern::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

constexpr char kCpus[] = "/sys/devices/system/cpu/";

std::string OnlineFile(uint32_t id) {
  return kCpus + ("cpu" + std::to_string(id)) + "/online";
}

class CpuHotplugTest : public testing::Test {
 protected:
  // cpu0 without an `online` file, as on x86; 1 to 3 offline.
  CpuHotplugTest() {
    kernel.Put(kCpus + std::string("cpu0/topology/core_id"), "0\n");
    for (uint32_t id = 1; id < 4; ++id) {
      kernel.Put(OnlineFile(id), "0\n");
      kernel.OnWrite(OnlineFile(id), [this, id](const std::string& value) -> Result<> {
        kernel.Put(OnlineFile(id), value + "\n");
        Refresh();
        return {};
      });
    }
    Refresh();
  }

  void Refresh() {
    std::string online = "0";
    for (uint32_t id = 1; id < 4; ++id) {
      if (kernel.Read(OnlineFile(id)) == "1") {
        online += "," + std::to_string(id);
      }
    }
    kernel.Put(kCpus + std::string("online"), online + "\n");
  }

  Result<v1::CpuResponse> Change(bool online, std::vector<uint32_t> ids,
                                 uint32_t deadline_ms = 10000) {
    v1::CpuRequest request;
    for (const uint32_t id : ids) {
      request.add_id(id);
    }
    request.set_deadline_ms(deadline_ms);
    return agent.Call<v1::CpuResponse>(online ? "CpuOnline" : "CpuOffline", request);
  }

  UpcallHarness agent;
  FakeKernel& kernel = agent.kernel;
};

TEST(CpuListTest, WhatIsNoneIsNothing) {
  for (const char* text : {"", "a", "-1", "1-", "3-1", "0,", "0,,1", "0;1", "0-8192", "99999999999",
                           "0 1", "0-4294967295"}) {
    EXPECT_FALSE(ParseCpuList(text)) << text;
  }
}

TEST(CpuListTest, NumbersAndRanges) {
  EXPECT_THAT(*ParseCpuList("0"), ElementsAre(0));
  EXPECT_THAT(*ParseCpuList("0-2,5,7-7"), ElementsAre(0, 1, 2, 5, 7));
}

TEST_F(CpuHotplugTest, BoundsOfTheRequest) {
  EXPECT_EQ(CodeOf(Change(true, {})), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Change(true, std::vector<uint32_t>(1025, 1))), Code::kInvalidArgument);
}

TEST_F(CpuHotplugTest, OnlineAndOfflineAgain) {
  const auto online = Change(true, {1, 3});
  ASSERT_TRUE(online) << TextOf(online);
  EXPECT_THAT(online->online(), ElementsAre(0, 1, 3));
  EXPECT_THAT(online->refused(), IsEmpty());
  const auto offline = Change(false, {3});
  ASSERT_TRUE(offline);
  EXPECT_THAT(offline->online(), ElementsAre(0, 1));
}

TEST_F(CpuHotplugTest, TheSameAgainWritesNothing) {
  const auto first = Change(true, {1, 1, 1});
  const auto second = Change(true, {1});
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->SerializeAsString(), second->SerializeAsString());
  EXPECT_THAT(kernel.Writes(OnlineFile(1)), SizeIs(1));
}

TEST_F(CpuHotplugTest, WhatRefusesIsToldAndTheOthersAreDone) {
  kernel.OnWrite(OnlineFile(2), [](const std::string&) { return SysErrorFrom(EIO, "write"); });
  const auto answer = Change(true, {2, 9, 1});
  ASSERT_TRUE(answer) << TextOf(answer);
  EXPECT_THAT(answer->online(), ElementsAre(0, 1));
  ASSERT_EQ(answer->refused_size(), 2);
  EXPECT_EQ(answer->refused(0).id(), 2U);
  EXPECT_EQ(answer->refused(0).reason(), v1::CpuRefusal::KERNEL);
  EXPECT_EQ(answer->refused(0).error(), EIO);
  EXPECT_EQ(answer->refused(1).id(), 9U);
  EXPECT_EQ(answer->refused(1).reason(), v1::CpuRefusal::NO_SUCH_CPU);
}

TEST_F(CpuHotplugTest, TheBootCpuStaysOnlineAndIsOnline) {
  const auto offline = Change(false, {0});
  ASSERT_TRUE(offline);
  ASSERT_EQ(offline->refused_size(), 1);
  EXPECT_EQ(offline->refused(0).reason(), v1::CpuRefusal::PERMANENT);
  const auto online = Change(true, {0});
  ASSERT_TRUE(online);
  EXPECT_THAT(online->refused(), IsEmpty());
}

TEST_F(CpuHotplugTest, OneThatDoesNotStartIsADeadlineAndTheOthersAreTold) {
  Gate gate;
  kernel.OnWrite(OnlineFile(2), [wait = gate.waiter()](const std::string&) -> Result<> {
    wait();
    return {};
  });
  const auto answer = Change(true, {1, 2, 3}, 500);
  ASSERT_TRUE(answer) << TextOf(answer);
  EXPECT_THAT(answer->online(), ElementsAre(0, 1));
  ASSERT_EQ(answer->refused_size(), 2);
  EXPECT_EQ(answer->refused(0).id(), 2U);
  EXPECT_EQ(answer->refused(0).reason(), v1::CpuRefusal::DEADLINE);
  EXPECT_EQ(answer->refused(1).id(), 3U);
  gate.Open();
  EXPECT_THAT(Change(true, {3})->online(), ElementsAre(0, 1, 3));
}

TEST_F(CpuHotplugTest, KernelWithoutTheDirectoryIsUnimplemented) {
  kernel.Delete("/sys/devices/system/cpu");
  EXPECT_EQ(CodeOf(Change(true, {1})), Code::kUnimplemented);
}

}  // namespace
}  // namespace wyvern::agent
