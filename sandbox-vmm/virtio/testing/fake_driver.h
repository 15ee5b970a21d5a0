// virtio/testing/fake_driver.h — the driver side of a split ring, for tests: an honest driver with
// hooks to be a hostile one.
// Spec:    VIRTIO 1.3 §2.7.13, §2.7.14 (driver's steps).
// Threads: one thread drives; the device side may run in another.
#pragma once

#include <cstdint>
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

  // The next used element, if the device has pushed one; its descriptors are free again.
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
  // Driver's wish (VIRTIO §2.7.7): interrupt once the used index passes `index`, or the flag
  // without EVENT_IDX.
  void SetUsedEvent(uint16_t index);
  void SetNoInterrupt(bool on);

  uint16_t free_descriptors() const { return static_cast<uint16_t>(free_.size()); }

  // What only a hostile driver does.
  void WriteDescriptor(uint16_t index, const RawDescriptor& descriptor);
  static void WriteTable(GuestRam& ram, mem::Gpa table, uint32_t index,
                         const RawDescriptor& descriptor);
  void MakeAvailable(uint16_t head);
  void SetAvailableIndex(uint16_t index);

  uint16_t available_index() const { return available_index_; }

  uint16_t UsedIndexInRing() const;
  uint16_t UsedFlags() const;
  uint16_t AvailEvent() const;
  // Starts both indices at `index`, to test wrap-around; before the device side exists.
  void StartAt(uint16_t index);

 private:
  friend class ChainBuilder;

  struct Placed {
    std::vector<uint16_t> descriptors;
    std::vector<Buffer> writable;
  };

  GuestRam& ram_;
  QueueConfig config_;
  uint64_t features_;
  uint16_t available_index_ = 0;
  uint16_t used_index_ = 0;
  uint16_t notified_index_ = 0;
  std::vector<uint16_t> free_;
  std::map<uint16_t, Placed> placed_;
};

}  // namespace wyvern::virtio::testing
