// What the driver does differently with a packed ring.
#include "base/check.h"
#include "base/endian.h"
#include "virtio/packed_ring_core.h"
#include "virtio/split_ring_core.h"
#include "virtio/testing/fake_driver.h"
#include "virtio/testing/ring_memory.h"

namespace wyvern::virtio::testing {

namespace {

// Without its flags, which are stored by themselves.
struct WirePackedBody {
  Le64 address;
  Le32 length;
  Le16 id;
};

static_assert(sizeof(WirePackedBody) == WV_PACKED_DESC_FLAGS);

void WriteBody(GuestRam& ram, mem::Gpa at, const RawPacked& descriptor) {
  WirePackedBody wire;
  wire.address = descriptor.address;
  wire.length = descriptor.length;
  wire.id = descriptor.id;
  ram.Write(at, wire);
}

}  // namespace

void FakeDriver::WritePackedTable(GuestRam& ram, mem::Gpa table, uint32_t index,
                                  const RawPacked& descriptor) {
  const mem::Gpa at = Plus(table, uint64_t{16} * index);
  WriteBody(ram, at, descriptor);
  StoreRelease(ram, Plus(at, WV_PACKED_DESC_FLAGS), descriptor.flags);
}

void FakeDriver::WritePacked(uint16_t slot, const RawPacked& descriptor) {
  WritePackedTable(ram_, config_.descriptor_area, slot, descriptor);
}

// The chain from `head` on, into the next slots of the ring. The flags of its first descriptor publish
// it, and so come last (§2.8.6). The buffer id is in its last descriptor; what the others have there
// means nothing.
void FakeDriver::MakePackedAvailable(uint16_t head) {
  const uint16_t first = available_index_;
  uint16_t first_flags = 0;
  uint16_t slots = 0;
  uint16_t index = head;
  for (bool more = true; more; ++slots) {
    const RawDescriptor& own = own_.at(index < config_.size ? index : 0);
    more = (own.flags & kNext) != 0 && slots + 1U < config_.size;
    const RawPacked raw{
        .address = own.address,
        .length = own.length,
        .id = more ? static_cast<uint16_t>(~head) : head,
        .flags = static_cast<uint16_t>(own.flags | wv_packed_available_flags(available_index_))};
    if (slots == 0) {
      WriteBody(ram_, Plus(config_.descriptor_area, wv_packed_offset(first)), raw);
      first_flags = raw.flags;
    } else {
      WritePacked(wv_packed_slot(available_index_), raw);
    }
    available_index_ = wv_packed_advance(available_index_, 1, config_.size);
    index = own.next;
  }
  placed_[head].slots = slots;
  added_ += slots;
  StoreRelease(ram_, Plus(config_.descriptor_area, wv_packed_offset(first) + WV_PACKED_DESC_FLAGS),
               first_flags);
}

void FakeDriver::MakeEndlessAvailable() {
  for (uint16_t slot = 0; slot < config_.size; ++slot) {
    WriteDescriptor(slot, {.address = GuestRam::kBase,
                           .length = 1,
                           .flags = kWrite | kNext,
                           .next = static_cast<uint16_t>(slot + 1)});
  }
  MakePackedAvailable(0);
}

std::optional<Used> FakeDriver::ReadPackedUsed(uint16_t at) const {
  const mem::Gpa from = Plus(config_.descriptor_area, wv_packed_offset(at));
  const uint16_t flags = LoadAcquire(ram_, Plus(from, WV_PACKED_DESC_FLAGS));
  if (!wv_packed_is_used(flags, at)) {
    return std::nullopt;
  }
  const auto id = ram_.Read<Le16>(Plus(from, 12));
  // Without WRITE the length is reserved (§2.8.4).
  const bool wrote = (flags & kWrite) != 0;
  return Used{.head = id.value(),
              .written = wrote ? ram_.Read<Le32>(Plus(from, WV_PACKED_DESC_LEN)).value() : 0};
}

// As Linux computes it, with 16-bit indices: another way than the device's.
bool FakeDriver::PackedShouldNotify() {
  const uint32_t added = added_;
  added_ = 0;
  notified_index_ = available_index_;
  if (added == 0) {
    return false;
  }
  const uint16_t flags = UsedFlags();
  const uint16_t event = AvailEvent();
  if (flags != WV_PACKED_EVENT_DESC) {
    return flags == WV_PACKED_EVENT_ENABLE;
  }
  const uint16_t now = wv_packed_slot(available_index_);
  const bool same_lap = wv_packed_wrap(event) == wv_packed_wrap(available_index_);
  const auto at = static_cast<uint16_t>(wv_packed_slot(event) - (same_lap ? 0 : config_.size));
  return wv_ring_need_event(at, now, static_cast<uint16_t>(now - added));
}

}  // namespace wyvern::virtio::testing
