#include "agent/memory_hotplug.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <time.h>

#include <cerrno>

#include "agent/testing/upcall_harness.h"

namespace wyvern::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr char kMemory[] = "/sys/devices/system/memory/";
constexpr char kPolicy[] = "/sys/module/memory_hotplug/parameters/online_policy";
constexpr char kAutoOnline[] = "/sys/devices/system/memory/auto_online_blocks";
constexpr uint64_t kBlock = 128U << 20;
constexpr uint64_t kStart = 8 * kBlock;

std::string StateFile(uint64_t block) {
  return kMemory + ("memory" + std::to_string(block)) + "/state";
}

class MemoryHotplugTest : public testing::Test {
 protected:
  MemoryHotplugTest() {
    kernel.Put(kMemory + std::string("block_size_bytes"), "8000000\n");
    kernel.Put(kPolicy, "auto-movable\n");
    AddBlock(0, "online");
  }

  void AddBlock(uint64_t block, const std::string& state) {
    kernel.Put(StateFile(block), state + "\n");
    kernel.OnWrite(StateFile(block), [this, block](const std::string& value) -> Result<> {
      kernel.Put(StateFile(block), value.substr(0, value.find('_')) + "\n");
      return {};
    });
  }

  Result<v1::MemoryResponse> Change(bool online, uint64_t bytes, uint32_t deadline_ms = 10000,
                                    uint64_t size = 4 * kBlock) {
    return agent.Call<v1::MemoryResponse>(online ? "MemoryOnline" : "MemoryOffline",
                                          Request(bytes, deadline_ms, size));
  }

  static v1::MemoryRequest Request(uint64_t bytes, uint32_t deadline_ms, uint64_t size) {
    v1::MemoryRequest request;
    request.set_start(kStart);
    request.set_size(size);
    request.set_bytes(bytes);
    request.set_deadline_ms(deadline_ms);
    return request;
  }

  UpcallHarness agent;
  FakeKernel& kernel = agent.kernel;
};

TEST_F(MemoryHotplugTest, BoundsOfTheRequest) {
  EXPECT_EQ(CodeOf(Change(true, 0, 1000, 0)), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Change(true, 0, 1000, 4096)), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Change(true, 5 * kBlock)), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Change(true, 0, 1000, (uint64_t{1} << 63) - kStart)), Code::kInvalidArgument);
}

TEST_F(MemoryHotplugTest, BlocksOfTheRangeComeOnlineFromBelow) {
  for (const uint64_t block : {7, 8, 9, 10, 12}) {
    AddBlock(block, "offline");
  }
  const auto answer = Change(true, 2 * kBlock);
  ASSERT_TRUE(answer) << TextOf(answer);
  EXPECT_EQ(answer->online_bytes(), 2 * kBlock);
  EXPECT_EQ(answer->block_bytes(), kBlock);
  EXPECT_TRUE(answer->complete());
  EXPECT_EQ(answer->error(), 0);
  EXPECT_THAT(kernel.Writes(StateFile(8)), ElementsAre("online"));
  EXPECT_THAT(kernel.Writes(StateFile(10)), IsEmpty());
  EXPECT_THAT(kernel.Writes(StateFile(7)), IsEmpty());
  EXPECT_THAT(kernel.Writes(StateFile(12)), IsEmpty());
}

TEST_F(MemoryHotplugTest, BlocksThatAreNotWhollyInTheRangeAreLeftAlone) {
  for (const uint64_t block : {7, 8, 9, 10, 11}) {
    AddBlock(block, "offline");
  }
  // Two blocks and a half: 8 and 9 whole, 10 in part.
  const auto answer = Change(true, 2 * kBlock + kBlock / 2, 300, 2 * kBlock + kBlock / 2);
  ASSERT_TRUE(answer) << TextOf(answer);
  EXPECT_EQ(answer->online_bytes(), 2 * kBlock);
  EXPECT_FALSE(answer->complete());
  for (const uint64_t block : {7, 10, 11}) {
    EXPECT_EQ(kernel.Read(StateFile(block)), "offline") << block;
  }
  // The end is the next range's beginning.
  ASSERT_TRUE(Change(true, 2 * kBlock, 300, 2 * kBlock));
  EXPECT_EQ(kernel.Read(StateFile(10)), "offline");
}

TEST_F(MemoryHotplugTest, TheSameAgainWritesNothing) {
  AddBlock(8, "offline");
  const auto first = Change(true, kBlock);
  const auto second = Change(true, kBlock);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->SerializeAsString(), second->SerializeAsString());
  EXPECT_THAT(kernel.Writes(StateFile(8)), ElementsAre("online"));
}

TEST_F(MemoryHotplugTest, KernelWithoutThePolicyIsToldTheZone) {
  kernel.Delete(kPolicy);
  AddBlock(8, "offline");
  ASSERT_TRUE(Change(true, kBlock));
  EXPECT_THAT(kernel.Writes(StateFile(8)), ElementsAre("online_movable"));
}

TEST_F(MemoryHotplugTest, BlocksThatComeLaterAreWaitedFor) {
  AddBlock(8, "online");
  auto waits =
      agent.Begin<v1::MemoryResponse>("MemoryOnline", Request(2 * kBlock, 10000, 4 * kBlock));
  EXPECT_EQ(waits.wait_for(20ms), std::future_status::timeout);
  AddBlock(9, "offline");
  const auto answer = waits.get();
  ASSERT_TRUE(answer) << TextOf(answer);
  EXPECT_TRUE(answer->complete());
}

TEST_F(MemoryHotplugTest, DeadlineSaysWhatThereIs) {
  AddBlock(8, "online");
  const auto answer = Change(true, 2 * kBlock, 50);
  ASSERT_TRUE(answer) << TextOf(answer);
  EXPECT_FALSE(answer->complete());
  EXPECT_EQ(answer->online_bytes(), kBlock);
}

TEST_F(MemoryHotplugTest, BlocksGoOfflineFromAbove) {
  for (const uint64_t block : {8, 9, 10, 11}) {
    AddBlock(block, "online");
  }
  const auto answer = Change(false, kBlock);
  ASSERT_TRUE(answer) << TextOf(answer);
  EXPECT_EQ(answer->online_bytes(), kBlock);
  EXPECT_TRUE(answer->complete());
  EXPECT_EQ(kernel.Read(StateFile(8)), "online");
  EXPECT_EQ(kernel.Read(StateFile(0)), "online");
}

TEST_F(MemoryHotplugTest, BlockThatIsHeldIsPassedOver) {
  AddBlock(8, "online");
  AddBlock(9, "online");
  kernel.OnWrite(StateFile(9), [](const std::string&) { return SysErrorFrom(EBUSY, "write"); });
  const auto answer = Change(false, kBlock);
  ASSERT_TRUE(answer) << TextOf(answer);
  EXPECT_TRUE(answer->complete());
  EXPECT_EQ(answer->error(), EBUSY);
  EXPECT_EQ(kernel.Read(StateFile(8)), "offline");
}

TEST_F(MemoryHotplugTest, BlockThatIsHeldForAWhileIsTriedAgain) {
  AddBlock(8, "online");
  int left = 3;
  kernel.OnWrite(StateFile(8), [this, &left](const std::string&) -> Result<> {
    if (--left > 0) {
      return SysErrorFrom(EBUSY, "write");
    }
    kernel.Put(StateFile(8), "offline\n");
    return {};
  });
  const auto answer = Change(false, 0);
  ASSERT_TRUE(answer) << TextOf(answer);
  EXPECT_TRUE(answer->complete());
}

// The kernel goes on for as long as a page is held, unless a signal is pending.
TEST_F(MemoryHotplugTest, OffliningWithoutEndIsInterruptedAtTheDeadline) {
  AddBlock(8, "online");
  std::promise<int> interrupted;
  kernel.OnWrite(StateFile(8), [&interrupted](const std::string&) {
    const timespec minute{.tv_sec = 60, .tv_nsec = 0};
    const int number = nanosleep(&minute, nullptr) == 0 ? 0 : errno;
    interrupted.set_value(number);
    return SysErrorFrom(number, "write");
  });
  const auto answer = Change(false, 0, 500);
  ASSERT_TRUE(answer) << TextOf(answer);
  EXPECT_FALSE(answer->complete());
  EXPECT_EQ(answer->online_bytes(), kBlock);
  auto number = interrupted.get_future();
  ASSERT_EQ(number.wait_for(10s), std::future_status::ready);
  EXPECT_EQ(number.get(), EINTR);
}

TEST_F(MemoryHotplugTest, KernelWithoutMemoryHotplugIsUnimplemented) {
  kernel.Delete("/sys/devices/system/memory");
  EXPECT_EQ(CodeOf(Change(true, kBlock)), Code::kUnimplemented);
}

TEST_F(MemoryHotplugTest, PolicyIsAutomaticAndMovable) {
  kernel.Put(kPolicy, "contig-zones\n");
  kernel.Put("/sys/module/memory_hotplug/parameters/auto_movable_ratio", "301\n");
  kernel.Put(kAutoOnline, "offline\n");
  SetMemoryPolicy(kernel, {});
  EXPECT_EQ(kernel.Read(kPolicy), "auto-movable");
  EXPECT_EQ(kernel.Read("/sys/module/memory_hotplug/parameters/auto_movable_ratio"), "800");
  EXPECT_EQ(kernel.Read(kAutoOnline), "online");
}

TEST_F(MemoryHotplugTest, PolicyOfAnOldKernelIsMovable) {
  kernel.Delete(kPolicy);
  kernel.Put(kAutoOnline, "offline\n");
  SetMemoryPolicy(kernel, {});
  EXPECT_EQ(kernel.Read(kAutoOnline), "online_movable");
}

TEST_F(MemoryHotplugTest, PolicyOfTheCommandLineStays) {
  kernel.Put(kPolicy, "contig-zones\n");
  kernel.Put(kAutoOnline, "offline\n");
  SetMemoryPolicy(kernel, {{"memory_hotplug.online_policy", "contig-zones"},
                           {"memhp_default_state", "offline"}});
  EXPECT_EQ(kernel.Read(kPolicy), "contig-zones");
  EXPECT_EQ(kernel.Read(kAutoOnline), "offline");
}

}  // namespace
}  // namespace wyvern::agent
