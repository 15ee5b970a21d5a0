// A back-end that is lost, and its successor.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <string_view>

#include "vhost_user/testing/frontend_rig.h"

namespace wyvern::vhost_user {
namespace {

using testing::Peer;
using virtio::testing::FakeDriver;
using virtio::testing::MustPop;

using FrontendReconnectTest = testing::FrontendRig;

TEST_F(FrontendReconnectTest, SuccessorGoesOnAtTheUsedIndex) {
  Peer first;
  FrontendOptions options = Options();
  options.reconnects = true;
  Create(first, options);
  ASSERT_TRUE(Start());
  Submit();
  const uint16_t second = Submit();
  Serve(first);
  first.Kill();
  EXPECT_TRUE(WaitLost(1));
  EXPECT_EQ(needs_reset_, 0);
  const uint64_t signals = interrupt_->queue_signals(0);
  const UniqueFd old(::fcntl(kick_.fd().get(), F_DUPFD_CLOEXEC, 0));
  Peer next;
  const auto reconnected = device_->Reconnect(std::move(next.front_end));
  ASSERT_TRUE(reconnected.has_value()) << reconnected.error().message();
  EXPECT_FALSE(device_->lost());
  EXPECT_GT(interrupt_->queue_signals(0), signals);
  // The successor finds an eventfd of its own signalled.
  uint64_t count = 0;
  EXPECT_EQ(::read(next.state->resources[0].kick.get(), &count, sizeof(count)),
            ssize_t{sizeof(count)});
  EXPECT_EQ(count, 1U);
  ASSERT_EQ(::write(old.get(), &count, sizeof(count)), ssize_t{sizeof(count)});
  EXPECT_EQ(::read(next.state->resources[0].kick.get(), &count, sizeof(count)), -1);
  EXPECT_EQ(Serve(next), second);
  const auto left = device_->StopQueue(0).value_or(virtio::QueueState{});
  EXPECT_EQ(left.next_available, 2U);
  EXPECT_EQ(left.next_used, 2U);
}

// What it was given it keeps: it can fill the counter, and make writes wait.
TEST_F(FrontendReconnectTest, KickThatTheLostBackEndFilledHoldsNoReconnectUp) {
  Peer first;
  FrontendOptions options = Options();
  options.reconnects = true;
  Create(first, options);
  ASSERT_TRUE(Start());
  const uint16_t head = Submit();
  const UniqueFd stolen(::fcntl(first.state->resources[0].kick.get(), F_DUPFD_CLOEXEC, 0));
  const uint64_t most = ~uint64_t{1};
  ASSERT_EQ(::write(stolen.get(), &most, sizeof(most)), ssize_t{sizeof(most)});
  ASSERT_EQ(::fcntl(stolen.get(), F_SETFL, 0), 0);
  first.Kill();
  EXPECT_TRUE(WaitLost(1));
  Peer next;
  auto reconnect = std::async(std::launch::async, [&] {
    return device_->Reconnect(std::move(next.front_end)).has_value();
  });
  const bool in_time = reconnect.wait_for(std::chrono::seconds(5)) == std::future_status::ready;
  uint64_t count = 0;
  EXPECT_EQ(::read(stolen.get(), &count, sizeof(count)), ssize_t{sizeof(count)});  // lets it go
  ASSERT_TRUE(in_time);
  EXPECT_EQ(count, most);
  EXPECT_TRUE(reconnect.get());
  EXPECT_EQ(Serve(next), head);
}

// Out of order, so that the used index alone would lose the first.
TEST_F(FrontendReconnectTest, SuccessorTakesAgainWhatWasInFlight) {
  Peer first({.track_inflight = true});
  FrontendOptions options = Options();
  options.reconnects = true;
  options.track_inflight = true;
  Create(first, options);
  ASSERT_TRUE(Start());
  const uint16_t head_one = Submit();
  const uint16_t head_two = Submit();
  const uint16_t head_three = Submit();
  std::optional<virtio::Chain> held = MustPop(*first.state->queues[0]);
  EXPECT_EQ(held->head(), head_one);
  EXPECT_EQ(Serve(first), head_two);
  first.Kill();
  held.reset();
  EXPECT_TRUE(WaitLost(1));
  Peer next({.track_inflight = true});
  ASSERT_TRUE(device_->Reconnect(std::move(next.front_end)));
  EXPECT_EQ(Serve(next), head_one);
  EXPECT_EQ(Serve(next), head_three);
  EXPECT_EQ(device_->StopQueue(0).value_or(virtio::QueueState{}).next_used, 3U);
  // After a reset the record is a new one: the next ring begins at 0.
  device_->Reset();
  driver_ = std::make_unique<FakeDriver>(ram_, 64);
  ASSERT_TRUE(Start());
  const uint16_t head = Submit();
  EXPECT_EQ(Serve(next), head);
}

TEST_F(FrontendReconnectTest, QueueStartedMeanwhileWaitsForTheSuccessor) {
  Peer first;
  FrontendOptions options = Options();
  options.reconnects = true;
  Create(first, options);
  first.Kill();
  EXPECT_TRUE(WaitLost(1));
  ASSERT_TRUE(Start());
  const uint16_t head = Submit();
  Peer next;
  ASSERT_TRUE(device_->Reconnect(std::move(next.front_end)));
  EXPECT_EQ(Serve(next), head);
  for (const auto& counter : device_->counters()) {
    const std::string_view name = counter.name;
    EXPECT_EQ(counter.value, name == "reconnects" || name == "backend_losses" ? 1U : 0U) << name;
  }
}

TEST_F(FrontendReconnectTest, OnlyALostBackEndIsReplacedAndByNoLesser) {
  Peer first({}, 1);
  FrontendOptions options = Options();
  options.features |= 1;
  Create(first, options);
  Peer lesser;
  Peer equal({}, 1);
  EXPECT_EQ(device_->Reconnect(std::move(lesser.front_end)).error().code(),
            Code::kFailedPrecondition);
  first.Kill();
  EXPECT_TRUE(WaitLost(1));
  EXPECT_EQ(needs_reset_, 1);
  Peer lesser_still;
  EXPECT_EQ(device_->Reconnect(std::move(lesser_still.front_end)).error().code(),
            Code::kFailedPrecondition);
  EXPECT_TRUE(device_->lost());
  ASSERT_TRUE(device_->Reconnect(std::move(equal.front_end)));
  EXPECT_FALSE(device_->lost());
  equal.Kill();
  EXPECT_TRUE(WaitLost(2));
}

}  // namespace
}  // namespace wyvern::vhost_user
