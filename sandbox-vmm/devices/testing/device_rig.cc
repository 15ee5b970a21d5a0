#include "testing/device_rig.h"

#include <thread>

#include "base/check.h"

namespace wyvern::devices::testing {

namespace {

using Clock = std::chrono::steady_clock;
using virtio::testing::Used;

}  // namespace

DeviceRig::DeviceRig(std::unique_ptr<virtio::VirtioDevice> device) {
  for (size_t i = 0; i < device->traits().queue_sizes.size(); ++i) {
    auto kick = EventFd::Create();
    WV_CHECK(kick.has_value());
    kicks_.push_back(*std::move(kick));
  }
  core_ = std::make_unique<transport::TransportCore>(
      std::move(device), ram_.memory(), interrupt_,
      [this](uint16_t index) { return kicks_.at(index).fd(); });
}

void DeviceRig::Prepare(uint64_t refused, uint16_t queue_size) {
  using Area = transport::TransportCore::Area;
  const uint64_t features = core_->device_features() & ~refused;
  core_->WriteStatus(0);
  core_->WriteStatus(1);
  core_->WriteStatus(3);
  core_->WriteDriverFeatures(0, static_cast<uint32_t>(features));
  core_->WriteDriverFeatures(1, static_cast<uint32_t>(features >> 32U));
  core_->WriteStatus(11);
  WV_CHECK(core_->status() == 11);
  drivers_.clear();
  for (uint16_t i = 0; i < core_->queue_count(); ++i) {
    const uint16_t size = std::min(queue_size, core_->queue(i).config.size);
    virtio::testing::FakeDriver& driver = drivers_.emplace_back(ram_, size, features);
    core_->WriteQueueSize(i, size);
    const auto set = [&](Area area, mem::Gpa address) {
      core_->WriteQueueAddress(i, area, false, static_cast<uint32_t>(mem::Raw(address)));
      core_->WriteQueueAddress(i, area, true, static_cast<uint32_t>(mem::Raw(address) >> 32U));
    };
    set(Area::kDescriptor, driver.config().descriptor_area);
    set(Area::kDriver, driver.config().driver_area);
    set(Area::kDevice, driver.config().device_area);
    core_->EnableQueue(i);
  }
}

void DeviceRig::DriverOk() {
  core_->WriteStatus(15);
  WV_CHECK(core_->status() == 15);
}

void DeviceRig::Start(uint64_t refused, uint16_t queue_size) {
  Prepare(refused, queue_size);
  DriverOk();
}

void DeviceRig::Kick(uint16_t index) {
  if (drivers_.at(index).ShouldNotify()) {
    KickAlways(index);
  }
}

void DeviceRig::KickAlways(uint16_t index) {
  kicks_.at(index).Signal();
}

std::optional<Used> DeviceRig::WaitMaybe(uint16_t index, std::chrono::milliseconds timeout) {
  const auto end = Clock::now() + timeout;
  virtio::testing::FakeDriver& driver = drivers_.at(index);
  for (int spin = 0;; ++spin) {
    if (auto used = driver.TakeUsed()) {
      // Interrupts are wanted for the next one, as a driver that has taken all would say.
      driver.SetUsedEvent(static_cast<uint16_t>(driver.UsedIndexInRing()));
      return used;
    }
    if (Clock::now() >= end) {
      return std::nullopt;
    }
    if (spin > 100) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }
}

Used DeviceRig::WaitUsed(uint16_t index, std::chrono::milliseconds timeout) {
  auto used = WaitMaybe(index, timeout);
  WV_CHECK(used.has_value());
  return *used;
}

bool DeviceRig::WaitNeedsReset(std::chrono::milliseconds timeout) {
  const auto end = Clock::now() + timeout;
  while ((core_->status() & virtio::kStatusNeedsReset) == 0) {
    if (Clock::now() >= end) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

uint64_t DeviceRig::counter(std::string_view name) {
  for (const virtio::CounterValue& counter : core_->device().counters()) {
    if (name == counter.name) {
      return counter.value;
    }
  }
  WV_CHECK(false && "no such counter");
  return 0;
}

}  // namespace wyvern::devices::testing
