#include "testing/core_guest.h"

#include "base/check.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices::testing {

CoreGuest::CoreGuest(std::unique_ptr<virtio::VirtioDevice> device,
                     std::shared_ptr<const mem::GuestMemory> memory,
                     std::shared_ptr<virtio::testing::FakeInterrupt> interrupt)
    : interrupt_(std::move(interrupt)) {
  for (size_t i = 0; i < device->traits().queue_sizes.size(); ++i) {
    auto kick = EventFd::Create();
    WV_CHECK(kick.has_value());
    kicks_.push_back(*std::move(kick));
  }
  core_ = std::make_unique<transport::TransportCore>(
      std::move(device), std::move(memory), interrupt_,
      [this](uint16_t index) { return kicks_.at(index).fd(); }, virtio::kRingReset);
}

bool CoreGuest::Negotiate(uint64_t features) {
  core_->WriteStatus(0);
  core_->WriteStatus(1);
  core_->WriteStatus(3);
  core_->WriteDriverFeatures(0, static_cast<uint32_t>(features));
  core_->WriteDriverFeatures(1, static_cast<uint32_t>(features >> 32U));
  core_->WriteStatus(11);
  return core_->status() == 11;
}

void CoreGuest::SetUpQueue(uint16_t index, const virtio::QueueConfig& config) {
  using Area = transport::TransportCore::Area;
  core_->WriteQueueSize(index, config.size);
  const auto set = [&](Area area, mem::Gpa address) {
    core_->WriteQueueAddress(index, area, false, static_cast<uint32_t>(mem::Raw(address)));
    core_->WriteQueueAddress(index, area, true, static_cast<uint32_t>(mem::Raw(address) >> 32U));
  };
  set(Area::kDescriptor, config.descriptor_area);
  set(Area::kDriver, config.driver_area);
  set(Area::kDevice, config.device_area);
  core_->EnableQueue(index);
}

bool CoreGuest::ResetQueue(uint16_t index) {
  return core_->ResetQueue(index) && !core_->queue_resetting(index) && !core_->queue(index).enabled;
}

void CoreGuest::Kick(uint16_t index) {
  kicks_.at(index).Signal();
}

bool CoreGuest::WaitInterrupt(uint16_t index, std::chrono::milliseconds timeout) {
  if (!interrupt_->WaitQueue(index, seen_[index], timeout)) {
    return false;
  }
  seen_[index] = interrupt_->queue_signals(index);
  return true;
}

}  // namespace wyvern::devices::testing
