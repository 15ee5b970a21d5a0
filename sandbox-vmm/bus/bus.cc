#include "bus/bus.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace wyvern::bus {

Bus::Bus(uint64_t limit) : limit_(limit), table_(std::make_shared<const Table>()) {}

Bus::~Bus() = default;

Result<> Bus::InsertInto(Table* table, Range range) const {
  if (range.size == 0 || range.start > limit_ || range.size - 1 > limit_ - range.start) {
    return Fail(Code::kOutOfRange, fmt::format("bus range {:#x}+{:#x} ends beyond {:#x}",
                                               range.start, range.size, limit_));
  }
  const uint64_t last = range.start + (range.size - 1);
  auto at = std::lower_bound(table->begin(), table->end(), range.start,
                             [](const Range& r, uint64_t start) { return r.start < start; });
  const bool hits_next = at != table->end() && at->start <= last;
  const bool hits_previous =
      at != table->begin() && range.start - std::prev(at)->start < std::prev(at)->size;
  if (hits_next || hits_previous) {
    return Fail(Code::kAlreadyExists,
                fmt::format("bus range {:#x}+{:#x} overlaps another", range.start, range.size));
  }
  table->insert(at, std::move(range));
  return {};
}

Result<> Bus::Insert(uint64_t start, uint64_t size, std::shared_ptr<BusDevice> device) {
  const std::lock_guard lock(mu_);
  auto table = std::make_shared<Table>(*table_.load());
  WV_TRY_VOID(InsertInto(table.get(), Range{start, size, std::move(device)}));
  table_.store(std::move(table));
  return {};
}

Result<> Bus::Remove(uint64_t start, uint64_t size) {
  const std::lock_guard lock(mu_);
  auto table = std::make_shared<Table>(*table_.load());
  const auto erased =
      std::erase_if(*table, [&](const Range& r) { return r.start == start && r.size == size; });
  if (erased == 0) {
    return Fail(Code::kNotFound, fmt::format("no bus range {:#x}+{:#x}", start, size));
  }
  table_.store(std::move(table));
  return {};
}

Result<> Bus::Move(uint64_t from, uint64_t size, uint64_t to) {
  const std::lock_guard lock(mu_);
  auto table = std::make_shared<Table>(*table_.load());
  auto it = std::find_if(table->begin(), table->end(),
                         [&](const Range& r) { return r.start == from && r.size == size; });
  if (it == table->end()) {
    return Fail(Code::kNotFound, fmt::format("no bus range {:#x}+{:#x}", from, size));
  }
  Range range = std::move(*it);
  table->erase(it);
  range.start = to;
  WV_TRY_VOID(InsertInto(table.get(), std::move(range)));
  table_.store(std::move(table));
  return {};
}

BusDevice* Bus::Find(const Table& table, uint64_t address, size_t size, uint64_t* offset) {
  if (size != 1 && size != 2 && size != 4 && size != 8) {
    return nullptr;
  }
  auto after = std::upper_bound(table.begin(), table.end(), address,
                                [](uint64_t a, const Range& r) { return a < r.start; });
  if (after == table.begin()) {
    return nullptr;
  }
  const Range& range = *std::prev(after);
  *offset = address - range.start;
  if (size > range.size || *offset > range.size - size) {
    return nullptr;
  }
  return range.device.get();
}

bool Bus::Read(uint64_t address, std::span<std::byte> out) {
  const std::shared_ptr<const Table> table = table_.load(std::memory_order_acquire);
  uint64_t offset = 0;
  BusDevice* device = Find(*table, address, out.size(), &offset);
  if (device == nullptr) {
    std::fill(out.begin(), out.end(), std::byte{0xff});
    unclaimed_reads_.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  device->Read(offset, out);
  return true;
}

bool Bus::Write(uint64_t address, std::span<const std::byte> in) {
  const std::shared_ptr<const Table> table = table_.load(std::memory_order_acquire);
  uint64_t offset = 0;
  BusDevice* device = Find(*table, address, in.size(), &offset);
  if (device == nullptr) {
    unclaimed_writes_.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  device->Write(offset, in);
  return true;
}

BusCounters Bus::counters() const {
  return BusCounters{.unclaimed_reads = unclaimed_reads_.load(std::memory_order_relaxed),
                     .unclaimed_writes = unclaimed_writes_.load(std::memory_order_relaxed)};
}

}  // namespace wyvern::bus
