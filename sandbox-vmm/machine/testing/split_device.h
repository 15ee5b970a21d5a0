// machine/testing/split_device.h — any device, but it does not offer packed rings.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "virtio/device.h"
#include "virtio/feature_bits.h"

namespace wyvern::machine {

class SplitDevice final : public virtio::VirtioDevice {
 public:
  explicit SplitDevice(std::unique_ptr<virtio::VirtioDevice> device)
      : traits_(device->traits()), device_(std::move(device)) {
    traits_.features &= ~virtio::kRingPacked;
    device_->set_fault_callback([this] { NeedsReset(); });
  }

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override {
    device_->ReadConfig(offset, out);
  }

  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override {
    device_->WriteConfig(offset, in);
  }

  void FeaturesAccepted(uint64_t features) override { device_->FeaturesAccepted(features); }

  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override {
    return device_->StartQueue(index, std::move(resources), features, resume);
  }

  std::optional<virtio::QueueState> StopQueue(uint16_t index) override {
    return device_->StopQueue(index);
  }

  void Reset() override { device_->Reset(); }

  bool TakesMemory(const mem::GuestMemory& memory) override { return device_->TakesMemory(memory); }

  bool MemoryGrew(const std::shared_ptr<const mem::GuestMemory>& memory) override {
    return device_->MemoryGrew(memory);
  }

  void SetQueueEnabled(uint16_t index, bool enabled) override {
    device_->SetQueueEnabled(index, enabled);
  }

  std::vector<virtio::CounterValue> counters() const override { return device_->counters(); }

 private:
  virtio::DeviceTraits traits_;
  std::unique_ptr<virtio::VirtioDevice> device_;  // last: its threads use the above
};

}  // namespace wyvern::machine
