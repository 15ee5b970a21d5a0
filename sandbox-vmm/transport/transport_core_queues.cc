// The queues' registers: what a driver may write when.
#include "transport/transport_core.h"
#include "virtio/split_ring_core.h"

namespace wyvern::transport {

namespace {

using virtio::kStatusDriverOk;
using virtio::kStatusFailed;
using virtio::kStatusFeaturesOk;

mem::Gpa WithHalf(mem::Gpa address, bool high, uint32_t value) {
  const uint64_t raw = mem::Raw(address);
  return mem::Gpa{high ? (raw & 0xffffffff) | uint64_t{value} << 32U
                       : (raw & ~uint64_t{0xffffffff}) | value};
}

}  // namespace

QueueRegisters TransportCore::queue(uint16_t index) const {
  const std::lock_guard lock(mu_);
  return index < queues_.size() ? queues_[index].registers : QueueRegisters{};
}

TransportCore::QueueSlot* TransportCore::ConfigurableLocked(uint16_t index) {
  const uint8_t status = status_.load(std::memory_order_relaxed);
  if (index >= queues_.size() || queues_[index].registers.enabled || queues_[index].running ||
      (status & kStatusFeaturesOk) == 0 || (status & kStatusFailed) != 0 ||
      ((status & kStatusDriverOk) != 0 && !queues_[index].registers.reset)) {
    Refuse();
    return nullptr;
  }
  return &queues_[index];
}

// Features are settled before a size can be written: it is judged once, where it arrives.
bool TransportCore::SizeValidLocked(uint16_t index, uint16_t size) const {
  const bool packed = (driver_features_ & virtio::kRingPacked) != 0;
  return size != 0 && size <= traits().queue_sizes[index] && (packed || wv_ring_size_valid(size));
}

void TransportCore::WriteQueueSize(uint16_t index, uint16_t size) {
  const std::lock_guard lock(mu_);
  QueueSlot* slot = ConfigurableLocked(index);
  if (slot == nullptr) {
    return;
  }
  if (!SizeValidLocked(index, size)) {
    Refuse();
    return;
  }
  slot->registers.config.size = size;
}

void TransportCore::WriteQueueAddress(uint16_t index, Area area, bool high, uint32_t value) {
  const std::lock_guard lock(mu_);
  QueueSlot* slot = ConfigurableLocked(index);
  if (slot == nullptr) {
    return;
  }
  virtio::QueueConfig& config = slot->registers.config;
  mem::Gpa& address = area == Area::kDescriptor ? config.descriptor_area
                      : area == Area::kDriver   ? config.driver_area
                                                : config.device_area;
  address = WithHalf(address, high, value);
}

void TransportCore::EnableQueue(uint16_t index) {
  const std::lock_guard lock(mu_);
  QueueSlot* slot = ConfigurableLocked(index);
  if (slot == nullptr) {
    return;
  }
  slot->registers.enabled = true;
  slot->registers.reset = false;
  if ((status_.load(std::memory_order_relaxed) & kStatusDriverOk) != 0) {
    StartOrBreakLocked(index);
  }
}

void TransportCore::DisableQueue(uint16_t index) {
  const std::lock_guard lock(mu_);
  if (index >= queues_.size()) {
    Refuse();
    return;
  }
  StopLocked(index);
  queues_[index].paused.reset();
  queues_[index].registers.enabled = false;
}

bool TransportCore::ResetQueue(uint16_t index) {
  const std::lock_guard lock(mu_);
  const uint8_t status = status_.load(std::memory_order_relaxed);
  if (index >= queues_.size() || (driver_features_ & virtio::kRingReset) == 0 ||
      (status & kStatusFeaturesOk) == 0 || (status & kStatusFailed) != 0) {
    Refuse();
    return false;
  }
  resetting_[index].store(true, std::memory_order_release);
  StopLocked(index);
  queues_[index] = DefaultSlot(index);
  queues_[index].registers.reset = true;
  resetting_[index].store(false, std::memory_order_release);
  return true;
}

}  // namespace wyvern::transport
