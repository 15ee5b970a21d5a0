#include "base/event_loop.h"

#include <gtest/gtest.h>

#include <thread>

namespace wyvern {
namespace {

using namespace std::chrono_literals;

TEST(EventLoopTest, CallbackRemovedInTheSameBatchIsNotCalled) {
  const auto loop = *EventLoop::Create();
  const EventFd first = *EventFd::Create();
  const EventFd second = *EventFd::Create();
  int calls = 0;
  EventLoop::Token a{};
  EventLoop::Token b{};
  a = *loop->Add(first.fd(), EPOLLIN, [&](uint32_t) {
    ++calls;
    loop->Remove(b);
    loop->Remove(a);
  });
  b = *loop->Add(second.fd(), EPOLLIN, [&](uint32_t) {
    ++calls;
    loop->Remove(a);
    loop->Remove(b);
  });
  first.Signal();
  second.Signal();
  ASSERT_TRUE(loop->RunOnce(0ms));
  ASSERT_TRUE(loop->RunOnce(0ms));
  EXPECT_EQ(calls, 1);
}

TEST(EventLoopTest, PostFromAnotherThreadRunsInOrder) {
  const auto loop = *EventLoop::Create();
  std::vector<int> order;
  std::thread poster([&] {
    for (int i = 0; i < 100; ++i) {
      loop->Post([&order, i] { order.push_back(i); });
    }
    loop->Post([&] { loop->Stop(); });
  });
  ASSERT_TRUE(loop->Run());
  poster.join();
  ASSERT_EQ(order.size(), 100U);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(order[static_cast<size_t>(i)], i);
  }
}

TEST(EventLoopTest, TimersFireInOrderAndCanBeCancelled) {
  const auto loop = *EventLoop::Create();
  std::string order;
  loop->After(20ms, [&] {
    order += "b";
    loop->Stop();
  });
  loop->After(1ms, [&] { order += "a"; });
  const auto cancelled = loop->After(5ms, [&] { order += "x"; });
  loop->Remove(cancelled);
  ASSERT_TRUE(loop->Run());
  EXPECT_EQ(order, "ab");
}

}  // namespace
}  // namespace wyvern
