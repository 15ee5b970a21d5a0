#include "virtio/testing/fake_driver.h"

#include <atomic>

#include "base/check.h"
#include "base/endian.h"
#include "virtio/split_ring_core.h"

namespace wyvern::virtio::testing {

namespace {

struct WireDescriptor {
  Le64 address;
  Le32 length;
  Le16 flags;
  Le16 next;
};

mem::Gpa Plus(mem::Gpa base, uint64_t offset) {
  return mem::Gpa{mem::Raw(base) + offset};
}

// The driver's side of the barriers is tested here too, so indices go through atomics like a real
// driver's.
uint16_t LoadAcquire(const GuestRam& ram, mem::Gpa at) {
  auto area = ram.memory()->Map(at, 2, 2, false);
  WV_CHECK(area.has_value());
  return area->LoadAcquire16(0);
}

void StoreRelease(const GuestRam& ram, mem::Gpa at, uint16_t value) {
  auto area = ram.memory()->Map(at, 2, 2, true);
  WV_CHECK(area.has_value());
  area->StoreRelease16(0, value);
}

}  // namespace

Chain MustPop(Queue& queue) {
  auto popped = queue.Pop();
  WV_CHECK(popped.has_value());
  std::optional<Chain>& chain = *popped;
  WV_CHECK(chain.has_value());
  return *std::move(chain);
}

ChainBuilder& ChainBuilder::Readable(std::string_view bytes) {
  return ReadableAt(driver_.ram_.Put(bytes), static_cast<uint32_t>(bytes.size()));
}

ChainBuilder& ChainBuilder::ReadableAt(mem::Gpa address, uint32_t length) {
  parts_.push_back({.address = mem::Raw(address), .length = length, .flags = 0, .next = 0});
  return *this;
}

ChainBuilder& ChainBuilder::Writable(uint32_t length) {
  return WritableAt(driver_.ram_.Allocate(length), length);
}

ChainBuilder& ChainBuilder::WritableAt(mem::Gpa address, uint32_t length) {
  parts_.push_back({.address = mem::Raw(address), .length = length, .flags = kWrite, .next = 0});
  return *this;
}

ChainBuilder& ChainBuilder::Indirect() {
  indirect_ = true;
  return *this;
}

uint16_t ChainBuilder::Place() {
  WV_CHECK(!parts_.empty());
  FakeDriver::Placed placed;
  for (const RawDescriptor& part : parts_) {
    if ((part.flags & kWrite) != 0) {
      placed.writable.push_back({mem::Gpa{part.address}, part.length});
    }
  }
  if (indirect_) {
    const uint32_t count = static_cast<uint32_t>(parts_.size());
    const mem::Gpa table = driver_.ram_.Allocate(uint64_t{16} * count);
    for (uint32_t i = 0; i < count; ++i) {
      RawDescriptor part = parts_[i];
      part.flags |= i + 1 < count ? kNext : 0;
      part.next = static_cast<uint16_t>(i + 1 < count ? i + 1 : 0);
      FakeDriver::WriteTable(driver_.ram_, table, i, part);
    }
    parts_ = {{.address = mem::Raw(table), .length = 16 * count, .flags = kIndirect, .next = 0}};
  }
  WV_CHECK(parts_.size() <= driver_.free_.size());
  for (size_t i = 0; i < parts_.size(); ++i) {
    placed.descriptors.push_back(driver_.free_.back());
    driver_.free_.pop_back();
  }
  for (size_t i = 0; i < parts_.size(); ++i) {
    RawDescriptor part = parts_[i];
    if (i + 1 < parts_.size()) {
      part.flags |= kNext;
      part.next = placed.descriptors[i + 1];
    }
    driver_.WriteDescriptor(placed.descriptors[i], part);
  }
  const uint16_t head = placed.descriptors.front();
  driver_.placed_[head] = std::move(placed);
  return head;
}

uint16_t ChainBuilder::Submit() {
  const uint16_t head = Place();
  driver_.MakeAvailable(head);
  return head;
}

FakeDriver::FakeDriver(GuestRam& ram, uint16_t size, uint64_t features)
    : ram_(ram), features_(features) {
  config_.size = size;
  config_.descriptor_area = ram.Allocate(wv_ring_descriptor_bytes(size), 16);
  config_.driver_area = ram.Allocate(wv_ring_driver_bytes(size), 2);
  config_.device_area = ram.Allocate(wv_ring_device_bytes(size), 4);
  // Memory may have been used before; a driver starts with clean rings.
  ram.Fill(config_.descriptor_area, wv_ring_descriptor_bytes(size), std::byte{0});
  ram.Fill(config_.driver_area, wv_ring_driver_bytes(size), std::byte{0});
  ram.Fill(config_.device_area, wv_ring_device_bytes(size), std::byte{0});
  for (uint16_t i = size; i > 0; --i) {
    free_.push_back(static_cast<uint16_t>(i - 1));
  }
}

void FakeDriver::WriteDescriptor(uint16_t index, const RawDescriptor& descriptor) {
  WriteTable(ram_, config_.descriptor_area, index, descriptor);
}

void FakeDriver::WriteTable(GuestRam& ram, mem::Gpa table, uint32_t index,
                            const RawDescriptor& descriptor) {
  WireDescriptor wire;
  wire.address = descriptor.address;
  wire.length = descriptor.length;
  wire.flags = descriptor.flags;
  wire.next = descriptor.next;
  ram.Write(Plus(table, uint64_t{16} * index), wire);
}

void FakeDriver::MakeAvailable(uint16_t head) {
  const uint16_t slot = wv_ring_slot(available_index_, config_.size);
  ram_.Write(Plus(config_.driver_area, wv_ring_driver_slot(slot)), Le16(head));
  SetAvailableIndex(static_cast<uint16_t>(available_index_ + 1));
}

void FakeDriver::SetAvailableIndex(uint16_t index) {
  available_index_ = index;
  StoreRelease(ram_, Plus(config_.driver_area, 2), index);
}

std::optional<Used> FakeDriver::TakeUsed() {
  if (LoadAcquire(ram_, Plus(config_.device_area, 2)) == used_index_) {
    return std::nullopt;
  }
  const mem::Gpa at =
      Plus(config_.device_area, wv_ring_device_slot(wv_ring_slot(used_index_, config_.size)));
  const Used used{.head = static_cast<uint16_t>(ram_.Read<Le32>(at).value()),
                  .written = ram_.Read<Le32>(Plus(at, 4)).value()};
  ++used_index_;
  auto placed = placed_.find(used.head);
  if (placed != placed_.end()) {
    auto& descriptors = placed->second.descriptors;
    free_.insert(free_.end(), descriptors.rbegin(), descriptors.rend());
    descriptors.clear();
  }
  return used;
}

Used FakeDriver::MustTakeUsed() {
  const auto used = TakeUsed();
  WV_CHECK(used.has_value());
  return *used;
}

std::string FakeDriver::Written(uint16_t head, uint32_t length) const {
  std::string out;
  auto placed = placed_.find(head);
  WV_CHECK(placed != placed_.end());
  for (const Buffer& buffer : placed->second.writable) {
    const uint32_t piece = std::min(buffer.length, length - static_cast<uint32_t>(out.size()));
    out += ram_.Text(buffer.address, piece);
  }
  return out;
}

bool FakeDriver::ShouldNotify() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint16_t old_index = notified_index_;
  notified_index_ = available_index_;
  if (available_index_ == old_index) {
    return false;
  }
  if ((features_ & kRingEventIdx) != 0) {
    return wv_ring_need_event(AvailEvent(), available_index_, old_index);
  }
  return (UsedFlags() & 1) == 0;
}

void FakeDriver::SetUsedEvent(uint16_t index) {
  StoreRelease(ram_, Plus(config_.driver_area, wv_ring_used_event(config_.size)), index);
}

void FakeDriver::SetNoInterrupt(bool on) {
  StoreRelease(ram_, config_.driver_area, on ? 1 : 0);
}

uint16_t FakeDriver::UsedIndexInRing() const {
  return LoadAcquire(ram_, Plus(config_.device_area, 2));
}

uint16_t FakeDriver::UsedFlags() const {
  return LoadAcquire(ram_, config_.device_area);
}

uint16_t FakeDriver::AvailEvent() const {
  return LoadAcquire(ram_, Plus(config_.device_area, wv_ring_avail_event(config_.size)));
}

void FakeDriver::StartAt(uint16_t index) {
  SetAvailableIndex(index);
  used_index_ = index;
  notified_index_ = index;
  StoreRelease(ram_, Plus(config_.device_area, 2), index);
}

}  // namespace wyvern::virtio::testing
