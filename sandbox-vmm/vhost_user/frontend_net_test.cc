// What only network devices need of a front-end: pairs, rings that come and go, MTU, features that we
// keep. The device itself: devices/vhost_user_net.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "vhost_user/testing/frontend_rig.h"
#include "vhost_user/testing/scripted_backend.h"

namespace wyvern::vhost_user {
namespace {

using testing::Peer;
using testing::ScriptedBackend;

class FrontendNetTest : public testing::FrontendRig {};

TEST_F(FrontendNetTest, NetworkDeviceIsCountedInPairs) {
  FrontendOptions options = Options();
  options.device_id = virtio::kDeviceNet;
  options.queue_sizes = {64, 64, 64, 64};
  Peer two({}, 0, {}, 2);
  EXPECT_TRUE(Frontend::Create(std::move(two.front_end), options).has_value());
  Peer one({}, 0, {}, 1);
  EXPECT_EQ(Frontend::Create(std::move(one.front_end), options).error().code(),
            Code::kFailedPrecondition);
  // Without MQ there is one.
  ScriptedBackend silent({}, {}, ScriptedBackend::kProtocol & ~kProtocolMq);
  EXPECT_EQ(Frontend::Create(std::move(silent.front_end), options).error().code(),
            Code::kFailedPrecondition);
  options.queue_sizes = {64, 64};
  ScriptedBackend single({}, {}, ScriptedBackend::kProtocol & ~kProtocolMq);
  EXPECT_TRUE(Frontend::Create(std::move(single.front_end), options).has_value());
}

TEST_F(FrontendNetTest, MtuIsToldForADriverThatTakesIt) {
  std::vector<uint16_t> told;
  Peer peer({.set_mtu = [&](uint16_t mtu) {
    told.push_back(mtu);
    return mtu == 9000 ? Result<>() : Fail(Code::kInvalidArgument, "another");
  }});
  FrontendOptions options = Options();
  constexpr uint64_t kMtu = uint64_t{1} << 3;
  options.own_features = kMtu;
  options.mtu = 9000;
  Create(peer, options);
  ASSERT_TRUE(Start());
  EXPECT_TRUE(told.empty());
  device_->StopQueue(0);
  device_->Reset();
  ASSERT_TRUE(Start(0, kFeatures | kMtu));
  ASSERT_TRUE(Start(1, kFeatures | kMtu));
  EXPECT_EQ(told, std::vector<uint16_t>{9000});
  Peer refuses({.set_mtu = [](uint16_t) { return Result<>(Fail(Code::kInvalidArgument, "no")); }});
  Create(refuses, options);
  EXPECT_FALSE(Start(0, kFeatures | kMtu));
}

TEST_F(FrontendNetTest, QueuesAreEnabledAsWeWereTold) {
  Peer first;
  FrontendOptions options = Options();
  options.reconnects = true;
  Create(first, options);
  ASSERT_TRUE(device_->EnableQueue(1, false));
  ASSERT_TRUE(Start(0));
  ASSERT_TRUE(Start(1));
  EXPECT_TRUE(first.state->running[0]);
  EXPECT_FALSE(first.state->running[1]);
  ASSERT_TRUE(device_->EnableQueue(1, true));
  EXPECT_TRUE(first.state->running[1]);
  ASSERT_TRUE(device_->EnableQueue(0, false));
  EXPECT_FALSE(first.state->running[0]);
  EXPECT_EQ(device_->EnableQueue(2, true).error().code(), Code::kInvalidArgument);
  first.Kill();
  ASSERT_TRUE(WaitLost(1));
  ASSERT_TRUE(device_->EnableQueue(0, true)) << "for the successor";
  ASSERT_TRUE(device_->EnableQueue(1, false));
  Peer next;
  ASSERT_TRUE(device_->Reconnect(std::move(next.front_end)));
  EXPECT_TRUE(next.state->running[0]);
  EXPECT_FALSE(next.state->running[1]);
}

TEST_F(FrontendNetTest, RefusedEnableLeavesTheQueueAsItWas) {
  ScriptedBackend backend(Request::kSetVringEnable,
                          [times = 0](ScriptedBackend::Reply* reply) mutable {
                            if (times++ == 1) {
                              reply->bytes[sizeof(Header)] = std::byte{1};
                            }
                          });
  auto device = Frontend::Create(std::move(backend.front_end), Options());
  ASSERT_TRUE(device.has_value()) << device.error().message();
  device_ = *std::move(device);
  ASSERT_TRUE(Start());
  const auto enables = [&] { return std::ranges::count(backend.seen(), Request::kSetVringEnable); };
  EXPECT_EQ(device_->EnableQueue(0, false).error().code(), Code::kInternal);
  EXPECT_EQ(enables(), 2);
  ASSERT_TRUE(device_->EnableQueue(0, true)) << "it is";
  EXPECT_EQ(enables(), 2);
  ASSERT_TRUE(device_->EnableQueue(0, false));
  EXPECT_EQ(enables(), 3);
  device_.reset();
}

TEST_F(FrontendNetTest, WhatWeKeepTheBackEndDoesNotHear) {
  constexpr uint64_t kKept = uint64_t{1} << 17;
  Peer peer({}, kKept | 1);
  FrontendOptions options = Options();
  options.features |= 1;
  options.own_features = kKept;
  options.kept_features = kKept;
  Create(peer, options);
  EXPECT_EQ(device_->traits().features & (kKept | 1), kKept | 1);
  ASSERT_TRUE(Start(0, kFeatures | kKept | 1));
  EXPECT_EQ(peer.state->features & (kKept | 1), 1U);
}

}  // namespace
}  // namespace wyvern::vhost_user
