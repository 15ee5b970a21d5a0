// vhost_user/shared_memory.h — the memory that a front-end shares: regions as told, their mapping,
// and its user addresses.
// Errors:  INVALID_ARGUMENT for regions that overlap, wrap, are not page-aligned, or are larger
//          than their file; the table is then as before.
// Trust:   all numbers and descriptors are the front-end's.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/fd.h"
#include "mem/guest_memory.h"
#include "vhost_user/messages.h"

namespace wyvern::vhost_user {

class SharedMemory {
 public:
  // What GET_MAX_MEM_SLOTS says: as much as other back-ends (KVM's number of memslots, long ago), and
  // more than half of the 512 chunks that virtio-mem plugs at most. Each takes a descriptor.
  static constexpr size_t kMaxSlots = 509;

  // SET_MEM_TABLE: these instead of what was there.
  Result<> Replace(std::span<const MemoryRegion> regions, std::vector<UniqueFd> fds);
  // ADD_MEM_REG; RESOURCE_EXHAUSTED beyond kMaxSlots. What was mapped stays where it is.
  Result<> Add(const MemoryRegion& region, UniqueFd fd);
  // Just that region, of that file.
  bool Has(const MemoryRegion& region, FdRef fd) const;
  // REM_MEM_REG: by addresses and size. NOT_FOUND. The others stay where they are.
  Result<> Remove(const MemoryRegion& region);

  // Null before the first table.
  const std::shared_ptr<const mem::GuestMemory>& memory() const { return memory_; }

  // Where a user address of the front-end lies for the guest.
  std::optional<mem::Gpa> ToGpa(uint64_t user_address) const;

 private:
  std::vector<MemoryRegion> slots_;
  std::shared_ptr<const mem::GuestMemory> memory_;
};

}  // namespace wyvern::vhost_user
