// bus/bus.h — which device answers an address: dispatch of MMIO and port accesses.
// Shape:   ranges sorted by address, not overlapping. A device sees offsets inside its range and
// sizes of 1, 2, 4 or 8 bytes only. Errors:  an access that no device claims, that ends outside its
// device's range, or that has another size reads as all ones and drops
//          its write; it is counted. It is no fault: guests probe.
// Threads: Read and Write from any vCPU thread, without locks held while the device runs; Insert,
// Remove and Move from any thread, also
//          from inside a device (a BAR that moves itself). A device may still be called by a vCPU
//          that looked it up before Remove returned.
// Trust:   addresses, sizes and data are the guest's.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/error.h"

namespace wyvern::bus {

class BusDevice {
 public:
  virtual ~BusDevice() = default;
  // Fills `out` (1, 2, 4 or 8 bytes) little-endian. Does not block. vCPU threads, several at once.
  virtual void Read(uint64_t offset, std::span<std::byte> out) = 0;
  virtual void Write(uint64_t offset, std::span<const std::byte> in) = 0;
};

struct BusCounters {
  uint64_t unclaimed_reads = 0;
  uint64_t unclaimed_writes = 0;
};

class Bus {
 public:
  // Addresses from 0 to `limit`, inclusive: 0xffff for ports.
  explicit Bus(uint64_t limit);
  ~Bus();
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;

  // Maps [start, start + size). ALREADY_EXISTS: it overlaps a mapped range; OUT_OF_RANGE: empty or
  // beyond the limit. The guest chooses BAR addresses, so callers expect both and leave the range
  // unmapped.
  Result<> Insert(uint64_t start, uint64_t size, std::shared_ptr<BusDevice> device);
  // Unmaps the range that was inserted with just this start and size. NOT_FOUND otherwise.
  Result<> Remove(uint64_t start, uint64_t size);
  // One step for the vCPUs: they see the old or the new place. On an error the old one stays.
  Result<> Move(uint64_t from, uint64_t size, uint64_t to);

  // True when a device was called.
  bool Read(uint64_t address, std::span<std::byte> out);
  bool Write(uint64_t address, std::span<const std::byte> in);

  BusCounters counters() const;

 private:
  struct Range {
    uint64_t start = 0;
    uint64_t size = 0;
    std::shared_ptr<BusDevice> device;
  };

  using Table = std::vector<Range>;

  // The device for a whole access, null if there is none; `*offset` is inside its range.
  static BusDevice* Find(const Table& table, uint64_t address, size_t size, uint64_t* offset);
  Result<> InsertInto(Table* table, Range range) const;

  const uint64_t limit_;
  std::mutex mu_;                                    // serialises writers
  std::atomic<std::shared_ptr<const Table>> table_;  // readers take a snapshot
  std::atomic<uint64_t> unclaimed_reads_{0};
  std::atomic<uint64_t> unclaimed_writes_{0};
};

}  // namespace wyvern::bus
