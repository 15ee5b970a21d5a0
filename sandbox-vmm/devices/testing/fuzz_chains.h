// testing/fuzz_chains.h — a driver of a device with one queue that a fuzzer scripts by fields: chains
// as they should be, chains with one field wrong, and what else may happen to a queue.
// Input:   1 B the driver: EVENT_IDX, indirect tables and IN_ORDER refused (bits 0-2), packed (bit 3),
//          log2 of the ring's size less 2 (bits 4-6); then records (ChainRecord).
// Promise: until its driver breaks a rule, each chain comes back, once, with as much written as the
//          device should, although the driver notifies only when it is asked to.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "base/endian.h"
#include "testing/device_rig.h"

namespace wyvern::devices::testing {

// Operations (modulo 12): 0-2 a chain, 3 kick, 4 take what was used, 5 await all, 6 driver's wish for
// interrupts, 7 pause and go on, 8 the device's own, 9 a chain with a field wrong, 10 the ring's memory
// or index overwritten, 11 the device is reset and started by another driver.
struct ChainRecord {
  uint8_t operation = 0;
  uint8_t parts = 0;  // 1 to 4 (bits 0-1), of which so many are writable (bits 2-7, modulo)
  uint8_t shape = 0;  // in a table (bit 0), no notification now (bit 1); where it lies (bits 2-3)
  uint8_t field = 0;  // which is wrong (bits 0-2), and of which part (bits 3-7, modulo)
  Le32 lengths = 0;   // of the parts, a byte each: which of kChainLengths
  Le32 value = 0;     // what a readable part holds; what is put into a field
};

static_assert(sizeof(ChainRecord) == 12);

inline constexpr std::array<uint32_t, 16> kChainLengths = {
    1, 2, 3, 4, 5, 7, 8, 16, 64, 512, 4095, 4096, 4097, 65535, 65536, 65537};

// A chain that keeps the rules, as far as a device judges it.
struct GoodChain {
  uint32_t readable = 0;  // bytes
  uint32_t writable = 0;
  uint32_t value = 0;  // the first four readable bytes, and each four that follow
};

struct FuzzedDevice {
  std::function<uint32_t(const GoodChain&)> written;  // what it must write for a good chain
  std::function<void(const ChainRecord&)> own;        // operation 8
  std::function<void()> unblock{};                    // lifts what may hold chains back
};

class ChainPlayer {
 public:
  ChainPlayer(DeviceRig& rig, FuzzedDevice device) : rig_(rig), device_(std::move(device)) {}

  // Leaves the device as it was before its first start.
  void Run(std::span<const uint8_t> input);

 private:
  using Raw = virtio::testing::RawDescriptor;

  void StartDriver(uint8_t bits);
  void Step(const ChainRecord& record);

  // A driver that keeps the rules.
  mem::Gpa Room(const ChainRecord& record, uint32_t length, const Raw* last);
  std::vector<Raw> Parts(const ChainRecord& record);
  void Offer(const ChainRecord& record);
  void Check(const virtio::testing::Used& used);
  void Collect();
  void Await();
  void Wish(const ChainRecord& record);

  // One that does not, and promises nothing any more.
  void BreakRules();
  uint64_t WildAddress(uint32_t value);
  void Spoil(const ChainRecord& record, Raw& part);
  void WriteTable(mem::Gpa table, const std::vector<Raw>& parts);
  void OfferSpoilt(const ChainRecord& record);
  void Overwrite(const ChainRecord& record);

  DeviceRig& rig_;
  const FuzzedDevice device_;
  bool honest_ = true;
  std::map<uint16_t, uint32_t> owed_;  // by head: what must be written
};

}  // namespace wyvern::devices::testing
