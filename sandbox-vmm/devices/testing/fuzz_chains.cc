#include "testing/fuzz_chains.h"

#include <chrono>
#include <string>
#include <utility>

#include "base/check.h"
#include "testing/fuzz_records.h"
#include "virtio/feature_bits.h"
#include "virtio/packed_ring_core.h"
#include "virtio/split_ring_core.h"

namespace wyvern::devices::testing {

namespace {

using virtio::testing::FakeDriver;
using virtio::testing::kIndirect;
using virtio::testing::kNext;
using virtio::testing::kWrite;

constexpr size_t kMaxRecords = 64;
constexpr uint64_t kMemory = uint64_t{12} << 20;  // of the guest's 16 MiB, for one input
constexpr uint64_t kEnd = virtio::testing::GuestRam::kBase + DeviceRig::kRamSize;
// Below libFuzzer's limit for an input.
constexpr std::chrono::seconds kPatience{8};

struct ChainShape {
  size_t parts = 1;
  size_t writable = 0;  // the last ones
};

ChainShape ShapeOf(const ChainRecord& record) {
  const size_t parts = 1 + (record.parts & 3U);
  return {.parts = parts, .writable = (record.parts >> 2U) % (parts + 1)};
}

uint32_t LengthOf(const ChainRecord& record, size_t part) {
  return kChainLengths[(record.lengths.value() >> (8 * part)) % kChainLengths.size()];
}

std::string Content(const ChainRecord& record, uint32_t length) {
  const Le32 value = record.value;
  std::string bytes;
  while (bytes.size() < length) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  bytes.resize(length);
  return bytes;
}

uint64_t DriverBytes(const FakeDriver& driver) {
  return driver.packed() ? uint64_t{WV_PACKED_EVENT_BYTES}
                         : wv_ring_driver_bytes(driver.config().size);
}

uint64_t DeviceBytes(const FakeDriver& driver) {
  return driver.packed() ? uint64_t{WV_PACKED_EVENT_BYTES}
                         : wv_ring_device_bytes(driver.config().size);
}

}  // namespace

void ChainPlayer::Run(std::span<const uint8_t> input) {
  const uint64_t mark = rig_.ram().Mark();
  StartDriver(input.empty() ? uint8_t{0} : input[0]);
  ForEachRecord<ChainRecord>(input.subspan(input.empty() ? 0 : 1), kMaxRecords,
                             [&](const ChainRecord& record) {
                               if (rig_.ram().Mark() - mark < kMemory) {
                                 Step(record);
                               }
                             });
  Await();
  (void)rig_.core().Pause();
  rig_.core().WriteStatus(0);
  rig_.ram().Release(mark);
}

void ChainPlayer::StartDriver(uint8_t bits) {
  const uint64_t refused = ((bits & 1U) != 0 ? virtio::kRingEventIdx : 0) |
                           ((bits & 2U) != 0 ? virtio::kRingIndirectDesc : 0) |
                           ((bits & 4U) != 0 ? virtio::kInOrder : 0);
  rig_.UseRing((bits & 8U) != 0 ? RingKind::kPacked : RingKind::kSplit);
  rig_.Start(refused, static_cast<uint16_t>(4U << (bits >> 4U & 7U)));
  honest_ = true;
  owed_.clear();
}

// Room for a writable part; `last`: the one before it, or null.
mem::Gpa ChainPlayer::Room(const ChainRecord& record, uint32_t length, const Raw* last) {
  switch (record.shape >> 2U & 3U) {
    case 1:  // up to the last byte that there is
      return mem::Gpa{kEnd - length};
    case 2:  // over the one before; not beyond it, where the next chain is going to be
      return last != nullptr && length <= last->length ? mem::Gpa{last->address}
                                                       : rig_.ram().Allocate(length);
    default:
      return rig_.ram().Allocate(length);
  }
}

// The parts as descriptors without flags that link them.
std::vector<ChainPlayer::Raw> ChainPlayer::Parts(const ChainRecord& record) {
  const ChainShape shape = ShapeOf(record);
  std::vector<Raw> parts;
  for (size_t i = 0; i < shape.parts; ++i) {
    const uint32_t length = LengthOf(record, i);
    const bool writable = i >= shape.parts - shape.writable;
    const Raw* last = i > shape.parts - shape.writable ? &parts.back() : nullptr;
    const mem::Gpa at =
        writable ? Room(record, length, last) : rig_.ram().Put(Content(record, length));
    parts.push_back({.address = mem::Raw(at),
                     .length = length,
                     .flags = writable ? kWrite : uint16_t{0},
                     .next = 0});
  }
  return parts;
}

void ChainPlayer::Offer(const ChainRecord& record) {
  const ChainShape shape = ShapeOf(record);
  const bool table = (record.shape & 1U) != 0 && (rig_.features() & virtio::kRingIndirectDesc) != 0;
  Collect();
  if (rig_.queue(0).free_descriptors() < (table ? 1 : shape.parts)) {
    return;
  }
  GoodChain chain{.value = record.value};
  auto build = rig_.queue(0).Build();
  if (table) {
    build.Indirect();
  }
  for (const Raw& part : Parts(record)) {
    if ((part.flags & kWrite) != 0) {
      chain.writable += part.length;
      build.WritableAt(mem::Gpa{part.address}, part.length);
    } else {
      chain.readable += part.length;
      build.ReadableAt(mem::Gpa{part.address}, part.length);
    }
  }
  const uint16_t head = build.Submit();
  if (honest_) {
    const bool fresh = owed_.emplace(head, device_.written(chain)).second;
    WV_CHECK(fresh);
  }
  if ((record.shape & 2U) == 0) {
    rig_.Kick(0);
  }
}

void ChainPlayer::Check(const virtio::testing::Used& used) {
  if (honest_) {
    const auto owed = owed_.extract(used.head);
    WV_CHECK(!owed.empty() && owed.mapped() == used.written);
  }
}

void ChainPlayer::Collect() {
  for (int i = 0; i < 1 << 10; ++i) {
    const auto used = rig_.queue(0).TakeUsed();
    if (!used) {
      break;
    }
    Check(*used);
  }
}

void ChainPlayer::Await() {
  if (device_.unblock) {
    device_.unblock();
  }
  rig_.Kick(0);
  while (!owed_.empty()) {
    const auto used = rig_.WaitMaybe(0, kPatience);
    WV_CHECK(used.has_value());
    Check(*used);
  }
}

void ChainPlayer::Wish(const ChainRecord& record) {
  auto& driver = rig_.queue(0);
  if ((record.field & 1U) != 0) {
    driver.SetNoInterrupt((record.field & 2U) != 0);
  } else {
    const auto ahead = static_cast<uint16_t>(record.value.value() % 4);
    driver.SetUsedEvent(static_cast<uint16_t>(driver.UsedIndexInRing() + ahead));
  }
}

void ChainPlayer::BreakRules() {
  honest_ = false;
  owed_.clear();
}

uint64_t ChainPlayer::WildAddress(uint32_t value) {
  const virtio::QueueConfig& ring = rig_.queue(0).config();
  switch (value % 8) {
    case 0:
      return 0;
    case 1:
      return mem::Raw(ring.descriptor_area);
    case 2:
      return mem::Raw(ring.driver_area);
    case 3:
      return mem::Raw(ring.device_area);
    case 4:  // over the end of memory, or into what lies behind it
      return kEnd - (value >> 3U) % 64;
    case 5:
      return ~uint64_t{0} - (value >> 3U) % 64;
    default:
      return virtio::testing::GuestRam::kBase + value % (2 * DeviceRig::kRamSize);
  }
}

void ChainPlayer::Spoil(const ChainRecord& record, Raw& part) {
  const uint32_t value = record.value;
  switch (record.field & 7U) {
    case 0:
    case 1:
      part.address = WildAddress(value);
      break;
    case 2:
      part.length = value;
      break;
    case 3:
      part.flags = static_cast<uint16_t>(value);
      break;
    case 4:
      part.flags = static_cast<uint16_t>(part.flags ^ kWrite);
      break;
    case 5:
      part.next = static_cast<uint16_t>(value);
      part.flags |= kNext;
      break;
    case 6:
      part.flags |= kIndirect;
      break;
    default:  // the others are right, and the head is not
      break;
  }
}

void ChainPlayer::WriteTable(mem::Gpa table, const std::vector<Raw>& parts) {
  for (uint32_t i = 0; i < parts.size(); ++i) {
    const Raw& part = parts[i];
    if (rig_.queue(0).packed()) {
      FakeDriver::WritePackedTable(
          rig_.ram(), table, i,
          {.address = part.address, .length = part.length, .id = part.next, .flags = part.flags});
    } else {
      FakeDriver::WriteTable(rig_.ram(), table, i, part);
    }
  }
}

void ChainPlayer::OfferSpoilt(const ChainRecord& record) {
  BreakRules();
  auto& driver = rig_.queue(0);
  std::vector<Raw> parts = Parts(record);
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    parts[i].flags |= kNext;
    parts[i].next = static_cast<uint16_t>(i + 1);
  }
  const bool table = (record.shape & 1U) != 0;
  // One more than there are: the descriptor of the table.
  const size_t which = (record.field >> 3U) % (parts.size() + (table ? 1 : 0));
  if (which < parts.size()) {
    Spoil(record, parts[which]);
  }
  if (table) {
    const auto bytes = static_cast<uint32_t>(WV_DESC_SIZE * parts.size());
    const mem::Gpa at = rig_.ram().Allocate(bytes);
    WriteTable(at, parts);
    Raw outer{.address = mem::Raw(at), .length = bytes, .flags = kIndirect};
    if (which == parts.size()) {
      Spoil(record, outer);
    }
    parts = {outer};
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    driver.WriteDescriptor(static_cast<uint16_t>(i), parts[i]);
  }
  const bool wild_head = (record.field & 7U) == 7;
  driver.MakeAvailable(wild_head ? static_cast<uint16_t>(record.value) : uint16_t{0});
  rig_.KickAlways(0);
}

void ChainPlayer::Overwrite(const ChainRecord& record) {
  BreakRules();
  const FakeDriver& driver = rig_.queue(0);
  const virtio::QueueConfig& ring = driver.config();
  const auto put = [&](mem::Gpa area, uint64_t bytes) {
    const uint64_t at = record.lengths.value() % (bytes - 1);
    const auto value = static_cast<uint16_t>(record.value.value());
    rig_.ram().Write(mem::Gpa{mem::Raw(area) + at}, Le16(value));
  };
  switch (record.field % 4) {
    case 0:
      put(ring.descriptor_area, uint64_t{WV_DESC_SIZE} * ring.size);
      break;
    case 1:
      put(ring.driver_area, DriverBytes(driver));
      break;
    case 2:
      put(ring.device_area, DeviceBytes(driver));
      break;
    default:
      rig_.queue(0).SetAvailableIndex(static_cast<uint16_t>(record.value.value()));
      break;
  }
  rig_.KickAlways(0);
}

void ChainPlayer::Step(const ChainRecord& record) {
  switch (record.operation % 12) {
    default:
      return Offer(record);
    case 3:
      return rig_.KickAlways(0);
    case 4:
      return Collect();
    case 5:
      return Await();
    case 6:
      return Wish(record);
    case 7:
      (void)rig_.core().Pause();
      WV_CHECK(rig_.core().Resume().has_value());
      return;
    case 8:
      return device_.own(record);
    case 9:
      return OfferSpoilt(record);
    case 10:
      return Overwrite(record);
    case 11:
      rig_.Reset();
      return StartDriver(static_cast<uint8_t>(record.value.value()));
  }
}

}  // namespace wyvern::devices::testing
