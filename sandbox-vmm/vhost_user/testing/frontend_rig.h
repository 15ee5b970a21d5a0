// vhost_user/testing/frontend_rig.h — our front-end, and a driver with one ring; the back-end is the
// test's.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "vhost_user/frontend.h"
#include "vhost_user/testing/backend_peer.h"
#include "virtio/testing/fake_driver.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::vhost_user::testing {

class FrontendRig : public ::testing::Test {
 protected:
  static constexpr uint64_t kFeatures = virtio::kVersion1 | virtio::kRingIndirectDesc;

  static FrontendOptions Options() {
    FrontendOptions options;
    options.device_id = virtio::kDeviceBlock;
    options.features = virtio::kRingFeatures;
    options.queue_sizes = {64, 64};
    options.timeout = std::chrono::seconds(10);
    return options;
  }

  void Create(Peer& peer, FrontendOptions options) {
    auto device = Frontend::Create(std::move(peer.front_end), std::move(options));
    ASSERT_TRUE(device.has_value()) << device.error().message();
    device_ = *std::move(device);
    device_->set_lost_callback([this](const std::string&) { ++lost_; });
    device_->set_fault_callback([this] { ++needs_reset_; });
  }

  Result<> Start(uint16_t index = 0, uint64_t features = kFeatures,
                 std::optional<virtio::QueueState> resume = {}) {
    virtio::QueueResources resources;
    resources.memory = ram_.memory();
    resources.config = driver_->config();
    resources.kick = kick_.fd();
    resources.interrupt = interrupt_;
    resources.renew_kick = [this] {
      kick_ = *EventFd::Create();
      kick_.Signal();
      return Result<FdRef>(kick_.fd());
    };
    return device_->StartQueue(index, std::move(resources), features, resume);
  }

  bool WaitLost(int times) const {
    for (int i = 0; i < 500 && lost_ < times; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return lost_ == times;
  }

  uint16_t Submit() { return driver_->Build().Readable("request").Writable(16).Submit(); }

  // The device's side of one chain.
  static uint16_t Serve(Peer& peer) {
    virtio::Chain chain = virtio::testing::MustPop(*peer.state->queues[0]);
    const uint16_t head = chain.head();
    peer.state->queues[0]->Push(std::move(chain), 1);
    return head;
  }

  virtio::testing::GuestRam ram_{8 << 20};
  std::unique_ptr<virtio::testing::FakeDriver> driver_ =
      std::make_unique<virtio::testing::FakeDriver>(ram_, 64);
  EventFd kick_ = *EventFd::Create();
  std::shared_ptr<virtio::testing::FakeInterrupt> interrupt_ =
      std::make_shared<virtio::testing::FakeInterrupt>();
  std::atomic<int> lost_{0};
  std::atomic<int> needs_reset_{0};
  std::unique_ptr<Frontend> device_;
};

}  // namespace wyvern::vhost_user::testing
