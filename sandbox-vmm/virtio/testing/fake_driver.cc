#include "virtio/testing/fake_driver.h"

#include <algorithm>
#include <atomic>

#include "base/check.h"
#include "base/endian.h"
#include "virtio/packed_ring_core.h"
#include "virtio/split_ring_core.h"
#include "virtio/testing/ring_memory.h"

namespace wyvern::virtio::testing {

namespace {

struct WireSplitDescriptor {
  Le64 address;
  Le32 length;
  Le16 flags;
  Le16 next;
};

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
    driver_.WriteIndirect(table, parts_);
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
  const auto area = [&](uint64_t bytes, uint64_t alignment) {
    const mem::Gpa at = ram.Allocate(bytes, alignment);
    // Memory may have been used before; a driver starts with clean rings.
    ram.Fill(at, bytes, std::byte{0});
    return at;
  };
  config_.descriptor_area = area(wv_ring_descriptor_bytes(size), 16);
  config_.driver_area =
      packed() ? area(WV_PACKED_EVENT_BYTES, 4) : area(wv_ring_driver_bytes(size), 2);
  config_.device_area =
      packed() ? area(WV_PACKED_EVENT_BYTES, 4) : area(wv_ring_device_bytes(size), 4);
  for (uint16_t i = size; i > 0; --i) {
    free_.push_back(static_cast<uint16_t>(i - 1));
  }
  if (packed()) {
    own_.resize(size);
    StartAt(WV_PACKED_START);
  }
}

void FakeDriver::WriteDescriptor(uint16_t index, const RawDescriptor& descriptor) {
  if (packed()) {
    own_.at(index) = descriptor;
  } else {
    WriteTable(ram_, config_.descriptor_area, index, descriptor);
  }
}

void FakeDriver::WriteTable(GuestRam& ram, mem::Gpa table, uint32_t index,
                            const RawDescriptor& descriptor) {
  WireSplitDescriptor wire;
  wire.address = descriptor.address;
  wire.length = descriptor.length;
  wire.flags = descriptor.flags;
  wire.next = descriptor.next;
  ram.Write(Plus(table, uint64_t{16} * index), wire);
}

void FakeDriver::WriteIndirect(mem::Gpa table, const std::vector<RawDescriptor>& parts) {
  const auto count = static_cast<uint32_t>(parts.size());
  for (uint32_t i = 0; i < count; ++i) {
    RawDescriptor part = parts[i];
    if (packed()) {
      WritePackedTable(ram_, table, i,
                       {.address = part.address, .length = part.length, .flags = part.flags});
      continue;
    }
    part.flags |= i + 1 < count ? kNext : 0;
    part.next = static_cast<uint16_t>(i + 1 < count ? i + 1 : 0);
    WriteTable(ram_, table, i, part);
  }
}

void FakeDriver::MakeAvailable(uint16_t head) {
  if (in_order()) {
    order_.push_back(head);
  }
  if (packed()) {
    MakePackedAvailable(head);
    return;
  }
  const uint16_t slot = wv_ring_slot(available_index_, config_.size);
  ram_.Write(Plus(config_.driver_area, wv_ring_driver_slot(slot)), Le16(head));
  SetAvailableIndex(static_cast<uint16_t>(available_index_ + 1));
}

void FakeDriver::SetAvailableIndex(uint16_t index) {
  if (packed()) {
    MakeEndlessAvailable();
    return;
  }
  available_index_ = index;
  StoreRelease(ram_, Plus(config_.driver_area, 2), index);
}

std::optional<Used> FakeDriver::ReadUsed(uint16_t at) const {
  if (packed()) {
    return ReadPackedUsed(at);
  }
  if (LoadAcquire(ram_, Plus(config_.device_area, 2)) == at) {
    return std::nullopt;
  }
  const mem::Gpa from =
      Plus(config_.device_area, wv_ring_device_slot(wv_ring_slot(at, config_.size)));
  return Used{.head = static_cast<uint16_t>(ram_.Read<Le32>(from).value()),
              .written = ram_.Read<Le32>(Plus(from, 4)).value()};
}

std::optional<FakeDriver::Element> FakeDriver::ElementAt(uint16_t at, size_t taken) const {
  const std::optional<Used> used = ReadUsed(at);
  if (!used) {
    return std::nullopt;
  }
  Element element{.used = *used};
  const auto slots = [&](uint16_t head) -> uint32_t {
    const auto placed = placed_.find(head);
    return packed() && placed != placed_.end() ? placed->second.slots : 1U;
  };
  element.advance = slots(used->head);
  // Up to the one that the element names: the batch.
  const auto oldest = order_.begin() + static_cast<ptrdiff_t>(std::min(taken, order_.size()));
  const auto named = std::find(oldest, order_.end(), used->head);
  for (auto skipped = oldest; named != order_.end() && skipped != named; ++skipped) {
    element.advance += slots(*skipped);
    ++element.chains;
  }
  return element;
}

uint16_t FakeDriver::Next(uint16_t at, uint32_t advance) const {
  return packed() ? wv_packed_advance(at, advance, config_.size)
                  : static_cast<uint16_t>(at + advance);
}

// Gives the chains of the element, the skipped ones first: they were used to their end (§2.7.9).
void FakeDriver::TakeElement(const Element& element) {
  ++elements_;
  used_index_ = Next(used_index_, element.advance);
  for (size_t i = 1; i < element.chains; ++i) {
    const uint16_t head = order_.front();
    order_.pop_front();
    uint32_t length = 0;
    for (const Buffer& buffer : placed_[head].writable) {
      length += buffer.length;
    }
    taken_.push_back({.head = head, .written = length});
  }
  if (!order_.empty() && order_.front() == element.used.head) {
    order_.pop_front();
  }
  taken_.push_back(element.used);
}

// A driver of a ring in order uses its descriptors in a circle (§2.7.5); else the freed ones come first.
void FakeDriver::Free(uint16_t head) {
  const auto placed = placed_.find(head);
  if (placed == placed_.end()) {
    return;
  }
  auto& descriptors = placed->second.descriptors;
  if (in_order()) {
    free_.insert(free_.begin(), descriptors.rbegin(), descriptors.rend());
  } else {
    free_.insert(free_.end(), descriptors.rbegin(), descriptors.rend());
  }
  descriptors.clear();
}

std::optional<Used> FakeDriver::TakeUsed() {
  if (taken_.empty()) {
    const std::optional<Element> element = ElementAt(used_index_, 0);
    if (!element) {
      return std::nullopt;
    }
    TakeElement(*element);
  }
  const Used used = taken_.front();
  taken_.pop_front();
  Free(used.head);
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
  if (packed()) {
    return PackedShouldNotify();
  }
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
  if (!packed()) {
    StoreRelease(ram_, Plus(config_.driver_area, wv_ring_used_event(config_.size)), index);
    return;
  }
  const bool event_idx = (features_ & kRingEventIdx) != 0;
  StoreRelease(ram_, config_.driver_area, index);
  StoreRelease(ram_, Plus(config_.driver_area, WV_PACKED_EVENT_FLAGS),
               event_idx ? WV_PACKED_EVENT_DESC : WV_PACKED_EVENT_ENABLE);
}

void FakeDriver::SetNoInterrupt(bool on) {
  if (packed()) {
    StoreRelease(ram_, Plus(config_.driver_area, WV_PACKED_EVENT_FLAGS),
                 on ? WV_PACKED_EVENT_DISABLE : WV_PACKED_EVENT_ENABLE);
  } else {
    StoreRelease(ram_, config_.driver_area, on ? WV_AVAIL_F_NO_INTERRUPT : 0);
  }
}

uint16_t FakeDriver::UsedIndexInRing() const {
  if (!packed()) {
    return LoadAcquire(ram_, Plus(config_.device_area, 2));
  }
  uint16_t at = used_index_;
  size_t taken = 0;
  for (uint32_t i = 0; i < config_.size; ++i) {
    const std::optional<Element> element = ElementAt(at, taken);
    if (!element) {
      break;
    }
    at = Next(at, element->advance);
    taken += element->chains;
  }
  return at;
}

uint16_t FakeDriver::UsedFlags() const {
  return LoadAcquire(ram_, Plus(config_.device_area, packed() ? WV_PACKED_EVENT_FLAGS : 0));
}

uint16_t FakeDriver::AvailEvent() const {
  return LoadAcquire(ram_,
                     Plus(config_.device_area, packed() ? 0 : wv_ring_avail_event(config_.size)));
}

void FakeDriver::StartAt(uint16_t index) {
  used_index_ = index;
  notified_index_ = index;
  available_index_ = index;
  if (!packed()) {
    SetAvailableIndex(index);
    StoreRelease(ram_, Plus(config_.device_area, 2), index);
    return;
  }
  // As after laps in which all was used: this one before `index`, the one before it from there on.
  for (uint16_t slot = 0; slot < config_.size; ++slot) {
    const bool passed = slot < wv_packed_slot(index);
    const uint32_t lap = index & WV_PACKED_WRAP;
    const auto position = static_cast<uint16_t>(slot | (passed ? lap : lap ^ WV_PACKED_WRAP));
    WritePacked(slot, {.flags = wv_packed_used_flags(position, 0)});
  }
}

}  // namespace wyvern::virtio::testing
