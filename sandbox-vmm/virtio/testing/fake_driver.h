// virtio/testing/fake_driver.h — the driver side of a ring, split or packed, for tests: an honest
// driver with hooks to be a hostile one.
// Spec:    VIRTIO 1.4 §2.7.13, §2.7.14, §2.8.21, §2.8.22 (driver's steps); IN_ORDER §2.7.9, §2.8.8.
// Shape:   tests speak of descriptors by number and of chains by their head, whatever the format. With
//          RING_PACKED the numbered descriptors are the driver's own; making a head available writes its
//          chain into the ring, with the head as buffer id. Indices are then positions (slot, and wrap
//          counter in bit 15).
// Threads: one thread drives; the device side may run in another.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "virtio/feature_bits.h"
#include "virtio/queue.h"
#include "virtio/testing/guest_ram.h"

namespace wyvern::virtio::testing {

inline constexpr uint16_t kNext = 1;
inline constexpr uint16_t kWrite = 2;
inline constexpr uint16_t kIndirect = 4;

struct RawDescriptor {
  uint64_t address = 0;
  uint32_t length = 0;
  uint16_t flags = 0;
  uint16_t next = 0;
};

// A packed ring's descriptor, byte for byte.
struct RawPacked {
  uint64_t address = 0;
  uint32_t length = 0;
  uint16_t id = 0;
  uint16_t flags = 0;
};

struct Used {
  uint16_t head = 0;
  uint32_t written = 0;
};

class FakeDriver;

// The device's side: the next chain, where there must be one; aborts otherwise.
Chain MustPop(Queue& queue);

// driver.Build().Readable("x").Writable(16).Submit(): descriptors in ring order, or in an indirect
// table after Indirect().
class ChainBuilder {
 public:
  explicit ChainBuilder(FakeDriver& driver) : driver_(driver) {}

  ChainBuilder& Readable(std::string_view bytes);
  ChainBuilder& ReadableAt(mem::Gpa address, uint32_t length);
  ChainBuilder& Writable(uint32_t length);
  ChainBuilder& WritableAt(mem::Gpa address, uint32_t length);
  ChainBuilder& Indirect();
  // Puts the chain on the ring and makes it available; the head. Aborts when descriptors have run
  // out.
  uint16_t Submit();
  // The same without making it available.
  uint16_t Place();

 private:
  FakeDriver& driver_;
  std::vector<RawDescriptor> parts_;
  bool indirect_ = false;
};

class FakeDriver {
 public:
  FakeDriver(GuestRam& ram, uint16_t size, uint64_t features = 0);

  const QueueConfig& config() const { return config_; }

  uint64_t features() const { return features_; }

  GuestRam& ram() { return ram_; }

  ChainBuilder Build() { return ChainBuilder(*this); }

  bool packed() const { return (features_ & kRingPacked) != 0; }

  // The next chain that the device has used, if there is one; its descriptors are free again. With
  // IN_ORDER a batch comes apart into its chains: the skipped ones as written to their end.
  std::optional<Used> TakeUsed();
  // The same where there must be one: aborts otherwise.
  Used MustTakeUsed();
  // What the device wrote: the first `length` bytes of the writable part of the chain that was at
  // `head` (also after TakeUsed).
  std::string Written(uint16_t head, uint32_t length) const;

  // Where the first device-writable buffer of the chain at `head` is.
  mem::Gpa WritableAddress(uint16_t head) const { return placed_.at(head).writable.at(0).address; }

  // Whether the device wants a notification for what was made available since the last call (VIRTIO
  // §2.7.10).
  bool ShouldNotify();
  // Driver's wish (VIRTIO §2.7.7, §2.8.10): interrupt once the used index passes `index`, or the flag
  // without EVENT_IDX.
  void SetUsedEvent(uint16_t index);
  void SetNoInterrupt(bool on);

  uint16_t free_descriptors() const { return static_cast<uint16_t>(free_.size()); }

  // What only a hostile driver does.
  void WriteDescriptor(uint16_t index, const RawDescriptor& descriptor);
  static void WriteTable(GuestRam& ram, mem::Gpa table, uint32_t index,
                         const RawDescriptor& descriptor);
  // A packed ring's descriptor, or an entry of its indirect tables, as it is to lie in memory.
  void WritePacked(uint16_t slot, const RawPacked& descriptor);
  static void WritePackedTable(GuestRam& ram, mem::Gpa table, uint32_t index,
                               const RawPacked& descriptor);
  void MakeAvailable(uint16_t head);
  // A packed ring has no index to be wrong: there a chain without an end is made available, which
  // claims as much.
  void SetAvailableIndex(uint16_t index);

  uint16_t available_index() const { return available_index_; }

  // Where the device stands: what it has published.
  uint16_t UsedIndexInRing() const;
  // Packed: the flags, and the position, of its event suppression structure.
  uint16_t UsedFlags() const;
  uint16_t AvailEvent() const;
  // Starts both indices at `index`, to test wrap-around; before the device side exists.
  void StartAt(uint16_t index);

  // How many used elements have been taken: fewer than chains where the device made batches.
  uint32_t elements() const { return elements_; }

 private:
  friend class ChainBuilder;

  struct Placed {
    std::vector<uint16_t> descriptors;
    std::vector<Buffer> writable;
    uint16_t slots = 1;  // packed: descriptors in the ring
  };

  // One used element, and what it stands for.
  struct Element {
    Used used;
    size_t chains = 1;
    uint32_t advance = 1;  // entries, or slots, to the next one
  };

  bool in_order() const { return (features_ & kInOrder) != 0; }

  void WriteIndirect(mem::Gpa table, const std::vector<RawDescriptor>& parts);
  // The element that the device has put at index or position `at`; `taken`: chains of order_ that are
  // accounted for already.
  std::optional<Element> ElementAt(uint16_t at, size_t taken) const;
  std::optional<Used> ReadUsed(uint16_t at) const;
  std::optional<Used> ReadPackedUsed(uint16_t at) const;
  uint16_t Next(uint16_t at, uint32_t advance) const;
  void TakeElement(const Element& element);
  void Free(uint16_t head);
  void MakePackedAvailable(uint16_t head);
  void MakeEndlessAvailable();
  bool PackedShouldNotify();

  GuestRam& ram_;
  QueueConfig config_;
  uint64_t features_;
  uint16_t available_index_ = 0;
  uint16_t used_index_ = 0;
  uint16_t notified_index_ = 0;
  uint32_t added_ = 0;              // packed: descriptors since notified_index_
  std::deque<uint16_t> free_;       // taken from the back
  std::deque<uint16_t> order_;      // IN_ORDER: heads as they were made available
  std::deque<Used> taken_;          // chains of a batch that TakeUsed has not given yet
  std::vector<RawDescriptor> own_;  // packed: the numbered descriptors
  std::map<uint16_t, Placed> placed_;
  uint32_t elements_ = 0;
};

}  // namespace wyvern::virtio::testing
