// virtio/testing/fake_device.h — a device that records how it is driven; for tests of transports.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "virtio/device.h"
#include "virtio/feature_bits.h"

namespace wyvern::virtio::testing {

class FakeDevice : public VirtioDevice {
 public:
  struct Running {
    QueueResources resources;
    uint64_t features = 0;
    std::unique_ptr<Queue> queue;
  };

  explicit FakeDevice(std::vector<uint16_t> queue_sizes = {64, 64}) {
    traits_.device_id = 4;
    traits_.features = kRingFeatures | 1;
    traits_.queue_sizes = std::move(queue_sizes);
    traits_.config_length = 8;
    traits_.name = "fake";
  }

  const DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override {
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = offset + i < config.size() ? config[offset + i] : std::byte{0};
    }
  }

  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override {
    for (size_t i = 0; i < in.size() && offset + i < config.size(); ++i) {
      config[offset + i] = in[i];
    }
  }

  Result<> StartQueue(uint16_t index, QueueResources resources, uint64_t features,
                      std::optional<QueueState> resume) override {
    auto queue = Queue::Create(resources.memory, resources.config, features, resume);
    if (!queue) {
      return Fail(Code::kInvalidArgument, ChainFaultName(queue.error()));
    }
    calls.push_back("start " + std::to_string(index));
    running[index] = {std::move(resources), features, *std::move(queue)};
    return {};
  }

  std::optional<QueueState> StopQueue(uint16_t index) override {
    calls.push_back("stop " + std::to_string(index));
    auto found = running.find(index);
    if (found == running.end()) {
      return std::nullopt;
    }
    const QueueState state = found->second.queue->state();
    running.erase(found);
    return state;
  }

  void Reset() override { calls.push_back("reset"); }

  void Break() { NeedsReset(); }

  std::vector<std::byte> config = std::vector<std::byte>(8);
  std::map<uint16_t, Running> running;
  std::vector<std::string> calls;

 private:
  DeviceTraits traits_;
};

}  // namespace wyvern::virtio::testing
