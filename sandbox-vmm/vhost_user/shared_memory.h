// vhost_user/shared_memory.h — the memory that a front-end shares: regions as told, their mapping,
// and its user addresses.
// Errors:  INVALID_ARGUMENT for regions that overlap, wrap, are not page-aligned, or are larger
//          than their file; the table is then as before.
// Trust:   all numbers and descriptors are the front-end's.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "mem/guest_memory.h"
#include "vhost_user/messages.h"

namespace wyvern::vhost_user {

class SharedMemory {
 public:
  static constexpr size_t kMaxSlots = 64;  // what GET_MAX_MEM_SLOTS says

  // SET_MEM_TABLE: these instead of what was there.
  Result<> Replace(std::span<const MemoryRegion> regions, std::vector<UniqueFd> fds);
  // ADD_MEM_REG; RESOURCE_EXHAUSTED beyond kMaxSlots.
  Result<> Add(const MemoryRegion& region, UniqueFd fd);
  // REM_MEM_REG: by addresses and size. NOT_FOUND.
  Result<> Remove(const MemoryRegion& region);

  // Null before the first table.
  const std::shared_ptr<const mem::GuestMemory>& memory() const { return memory_; }

  // Where a user address of the front-end lies for the guest.
  std::optional<mem::Gpa> ToGpa(uint64_t user_address) const;

 private:
  struct Slot {
    MemoryRegion region;
    UniqueFd fd;
  };

  static Result<std::shared_ptr<const mem::GuestMemory>> Map(const std::vector<Slot>& slots);

  std::vector<Slot> slots_;
  std::shared_ptr<const mem::GuestMemory> memory_;
};

}  // namespace wyvern::vhost_user
