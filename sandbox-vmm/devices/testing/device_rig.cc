#include "testing/device_rig.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "base/check.h"
#include "testing/wait.h"

namespace wyvern::devices::testing {

namespace {

using Clock = std::chrono::steady_clock;
using virtio::testing::Used;

}  // namespace

DeviceRig::DeviceRig(std::unique_ptr<virtio::VirtioDevice> device, RigOptions options)
    : options_(std::move(options)), device_(device.get()) {
  guest_ = MakeGuestTransport(options_.transport, std::move(device), ram_.memory(), interrupt_,
                              options_.frontend);
}

void DeviceRig::Prepare(uint64_t refused, uint16_t queue_size) {
  const uint64_t offered = guest_->OfferedFeatures();
  const bool packed = options_.ring == RingKind::kPacked;
  WV_CHECK(!packed || (offered & virtio::kRingPacked) != 0);
  features_ = offered & ~refused & ~(packed ? uint64_t{0} : virtio::kRingPacked);
  WV_CHECK(guest_->Negotiate(features_));
  const uint16_t queues = guest_->core().queue_count();
  drivers_.clear();
  drivers_.resize(queues);
  for (uint16_t i = 0; i < queues; ++i) {
    SetUpAgain(i, queue_size);
  }
}

void DeviceRig::SetUpAgain(uint16_t index, uint16_t queue_size) {
  const uint16_t size = std::min(queue_size, guest_->MaxQueueSize(index));
  drivers_.at(index) = std::make_unique<virtio::testing::FakeDriver>(ram_, size, features_);
  guest_->SetUpQueue(index, drivers_.at(index)->config());
}

void DeviceRig::ResetQueue(uint16_t index) {
  WV_CHECK(guest_->ResetQueue(index));
  drivers_.at(index).reset();
}

void DeviceRig::DriverOk() {
  guest_->DriverOk();
  WV_CHECK(guest_->Status() == 15);
}

void DeviceRig::Start(uint64_t refused, uint16_t queue_size) {
  Prepare(refused, queue_size);
  DriverOk();
}

void DeviceRig::Kick(uint16_t index) {
  if (queue(index).ShouldNotify()) {
    KickAlways(index);
  }
}

void DeviceRig::KickAlways(uint16_t index) {
  guest_->Kick(index);
}

std::optional<Used> DeviceRig::TakeUsed(uint16_t index) {
  virtio::testing::FakeDriver& driver = queue(index);
  auto used = driver.TakeUsed();
  if (used) {
    // Interrupts are wanted for the next one, as a driver that has taken all would say.
    driver.SetUsedEvent(static_cast<uint16_t>(driver.UsedIndexInRing()));
  }
  return used;
}

std::optional<Used> DeviceRig::WaitMaybe(uint16_t index, std::chrono::milliseconds timeout) {
  const auto end = Clock::now() + timeout;
  for (int spin = 0;; ++spin) {
    if (auto used = TakeUsed(index)) {
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

Used DeviceRig::WaitInterrupted(uint16_t index, std::chrono::milliseconds timeout) {
  const auto end = Clock::now() + timeout;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    WV_CHECK(left.count() > 0 && guest_->WaitInterrupt(index, left));
    // It may be for another queue, or of buffers that were taken already.
    if (auto used = TakeUsed(index)) {
      return *used;
    }
  }
}

Used DeviceRig::WaitUsed(uint16_t index, std::chrono::milliseconds timeout) {
  auto used = WaitMaybe(index, timeout);
  WV_CHECK(used.has_value());
  return *used;
}

bool DeviceRig::WaitNeedsReset(std::chrono::milliseconds timeout) {
  return WaitUntil([this] { return (guest_->Status() & virtio::kStatusNeedsReset) != 0; }, timeout);
}

uint64_t DeviceRig::counter(std::string_view name) {
  for (const virtio::CounterValue& counter : device_->counters()) {
    if (name == counter.name) {
      return counter.value;
    }
  }
  WV_CHECK(false && "no such counter");
  return 0;
}

}  // namespace wyvern::devices::testing
