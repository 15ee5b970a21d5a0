#include "base/loop_thread.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <array>
#include <string>
#include <thread>

namespace wyvern {
namespace {

TEST(LoopThreadTest, CallRunsOnTheThreadAndWaits) {
  auto thread = LoopThread::Start("a name longer than fifteen bytes");
  ASSERT_TRUE(thread.has_value());
  std::thread::id ran;
  std::array<char, 16> name{};
  (*thread)->Call([&] {
    ran = std::this_thread::get_id();
    pthread_getname_np(pthread_self(), name.data(), name.size());
  });
  EXPECT_NE(ran, std::thread::id());
  EXPECT_NE(ran, std::this_thread::get_id());
  EXPECT_STREQ(name.data(), "a name longer t");
}

TEST(LoopThreadTest, CallFromTheThreadItselfRunsAtOnce) {
  auto thread = LoopThread::Start("loop");
  ASSERT_TRUE(thread.has_value());
  std::string order;
  (*thread)->Call([&] {
    (*thread)->Call([&] { order += "inner "; });
    order += "outer";
  });
  EXPECT_EQ(order, "inner outer");
}

TEST(LoopThreadTest, HookRunsBeforeAnythingPosted) {
  std::string order;
  auto thread = LoopThread::Start("loop", [&] { order += "hook "; });
  ASSERT_TRUE(thread.has_value());
  (*thread)->Call([&] { order += "task"; });
  EXPECT_EQ(order, "hook task");
}

TEST(LoopThreadTest, StopJoinsOnceAndDropsWhatHasNotRun) {
  auto thread = LoopThread::Start("loop");
  ASSERT_TRUE(thread.has_value());
  bool ran = false;
  (*thread)->Call([&] { (*thread)->loop().After(std::chrono::hours(1), [&] { ran = true; }); });
  (*thread)->Stop();
  (*thread)->Stop();
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace wyvern
