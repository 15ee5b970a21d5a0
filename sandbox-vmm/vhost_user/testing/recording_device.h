// vhost_user/testing/recording_device.h — a device that keeps its queues as a device does, takes
// chains when told to, and records how it is driven.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "virtio/device.h"
#include "virtio/feature_bits.h"

namespace wyvern::vhost_user::testing {

class RecordingDevice final : public virtio::VirtioDevice {
 public:
  static constexpr size_t kMostQueues = 8;

  // Outlives the device, for the test to look at.
  struct State {
    std::vector<bool> running = std::vector<bool>(kMostQueues);
    std::vector<virtio::QueueResources> resources{kMostQueues};
    std::vector<std::unique_ptr<virtio::Queue>> queues{kMostQueues};
    std::vector<std::byte> config = std::vector<std::byte>(8, std::byte{7});
    std::optional<virtio::QueueState> resumed;
    uint64_t features = 0;
    // What StopQueue says where the ring was not made to be looked at.
    virtio::QueueState stopped{0, 3};
    bool open_rings = false;  // StartQueue makes a virtio::Queue
    int resets = 0;
    int starts = 0;
    std::vector<bool> enabled = std::vector<bool>(kMostQueues, true);  // as SetQueueEnabled said
  };

  explicit RecordingDevice(std::shared_ptr<State> state, uint64_t more_features = 0,
                           std::vector<virtio::SharedMemoryRegion> shared = {})
      : state_(std::move(state)) {
    traits_.device_id = virtio::kDeviceFs;
    traits_.features = virtio::kRingFeatures | more_features;
    traits_.queue_sizes = {256, 256};
    traits_.config_length = 8;
    traits_.name = "recording";
    traits_.shared_memory = std::move(shared);
  }

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override {
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = offset + i < state_->config.size() ? state_->config[offset + i] : std::byte{0};
    }
  }

  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override {
    for (size_t i = 0; i < in.size() && offset + i < state_->config.size(); ++i) {
      state_->config[offset + i] = in[i];
    }
  }

  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override {
    if (state_->open_rings) {
      auto queue = virtio::Queue::Create(resources.memory, resources.config, features, resume);
      if (!queue) {
        return Fail(Code::kInvalidArgument, virtio::ChainFaultName(queue.error()));
      }
      state_->queues[index] = *std::move(queue);
    }
    ++state_->starts;
    state_->running[index] = true;
    state_->resources[index] = std::move(resources);
    state_->resumed = resume;
    state_->features = features;
    return {};
  }

  std::optional<virtio::QueueState> StopQueue(uint16_t index) override {
    if (!state_->running[index]) {
      return std::nullopt;
    }
    state_->running[index] = false;
    state_->resources[index] = {};
    if (state_->queues[index] == nullptr) {
      return state_->stopped;
    }
    const virtio::QueueState left = state_->queues[index]->state();
    state_->queues[index].reset();
    return left;
  }

  void Reset() override { ++state_->resets; }

  void SetQueueEnabled(uint16_t index, bool enabled) override { state_->enabled[index] = enabled; }

  void set_runs_disabled() { traits_.runs_disabled = true; }

  // A network device of that many pairs, with a control queue behind them.
  void set_pairs(uint16_t pairs, uint64_t control_features) {
    traits_.device_id = virtio::kDeviceNet;
    traits_.queue_sizes.assign(size_t{2} * pairs + 1, 256);
    traits_.features |= control_features;
    traits_.control_features = control_features;
  }

  // As when a ring makes no sense.
  void Break() { NeedsReset(); }

 private:
  std::shared_ptr<State> state_;
  virtio::DeviceTraits traits_;
};

}  // namespace wyvern::vhost_user::testing
