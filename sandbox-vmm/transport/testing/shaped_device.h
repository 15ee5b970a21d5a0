// transport/testing/shaped_device.h — a FakeDevice with traits of the test's choice.
#pragma once

#include <optional>
#include <utility>

#include "virtio/testing/fake_device.h"

namespace wyvern::transport::testing {

class ShapedDevice : public virtio::testing::FakeDevice {
 public:
  explicit ShapedDevice(virtio::DeviceTraits traits) : shape_(std::move(traits)) {}

  const virtio::DeviceTraits& traits() const override { return shape_; }

  // Takes a chain from each queue that runs and gives it back empty; a ring that is none stays so.
  void Serve() {
    for (auto& entry : running) {
      auto popped = entry.second.queue->Pop();
      if (!popped) {
        continue;
      }
      std::optional<virtio::Chain> chain = *std::move(popped);
      if (chain.has_value()) {
        entry.second.queue->Push(*std::move(chain), 0);
        entry.second.resources.interrupt->SignalQueue(entry.first);
      }
    }
  }

  // FakeDevice's, to be changed.
  static virtio::DeviceTraits Traits() { return FakeDevice().traits(); }

 private:
  const virtio::DeviceTraits shape_;
};

}  // namespace wyvern::transport::testing
