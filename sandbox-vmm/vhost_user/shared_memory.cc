#include "vhost_user/shared_memory.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>

namespace wyvern::vhost_user {

namespace {

bool Wraps(uint64_t start, uint64_t size) {
  return size == 0 || start > UINT64_MAX - (size - 1);
}

bool Overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a <= b + (b_size - 1) && b <= a + (a_size - 1);
}

// User addresses are ours to check; guest addresses and files are GuestMemory's.
Result<> CheckRegion(const MemoryRegion& region) {
  if (Wraps(region.guest_address, region.size) || Wraps(region.user_address, region.size) ||
      region.mmap_offset > static_cast<uint64_t>(INT64_MAX) ||
      region.size > static_cast<uint64_t>(INT64_MAX) - region.mmap_offset) {
    return Fail(Code::kInvalidArgument,
                fmt::format("memory region at {:#x} of {:#x} bytes wraps around",
                            region.guest_address, region.size));
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<const mem::GuestMemory>> SharedMemory::Map(const std::vector<Slot>& slots) {
  std::vector<mem::RegionSpec> specs;
  for (const Slot& slot : slots) {
    WV_TRY_VOID(CheckRegion(slot.region));
    for (const Slot& other : slots) {
      if (&other != &slot && Overlap(slot.region.user_address, slot.region.size,
                                     other.region.user_address, other.region.size)) {
        return Fail(Code::kInvalidArgument, "memory regions overlap in the front-end");
      }
    }
    const int flags = ::fcntl(slot.fd.get(), F_GETFL);
    if (flags < 0) {
      return SysError("fcntl(F_GETFL) of a memory region");
    }
    mem::RegionSpec spec;
    spec.start = mem::Gpa{slot.region.guest_address};
    spec.size = slot.region.size;
    WV_TRY(spec.fd, slot.fd.Duplicate());
    spec.fd_offset = slot.region.mmap_offset;
    // A device may only read what the guest may only read (pmem).
    spec.read_only = (flags & O_ACCMODE) == O_RDONLY;
    specs.push_back(std::move(spec));
  }
  if (specs.empty()) {
    return std::shared_ptr<const mem::GuestMemory>();
  }
  return mem::GuestMemory::Create(std::move(specs));
}

Result<> SharedMemory::Replace(std::span<const MemoryRegion> regions, std::vector<UniqueFd> fds) {
  if (regions.size() != fds.size()) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{} memory regions with {} descriptors", regions.size(), fds.size()));
  }
  std::vector<Slot> slots;
  for (size_t i = 0; i < regions.size(); ++i) {
    slots.push_back({regions[i], std::move(fds[i])});
  }
  WV_TRY(memory_, Map(slots));
  slots_ = std::move(slots);
  return {};
}

Result<> SharedMemory::Add(const MemoryRegion& region, UniqueFd fd) {
  if (slots_.size() >= kMaxSlots) {
    return Fail(Code::kResourceExhausted, "too many memory regions");
  }
  slots_.push_back({region, std::move(fd)});
  auto mapped = Map(slots_);
  if (!mapped) {
    slots_.pop_back();
    return tl::unexpected(std::move(mapped).error());
  }
  memory_ = *std::move(mapped);
  return {};
}

Result<> SharedMemory::Remove(const MemoryRegion& region) {
  const auto it = std::ranges::find_if(slots_, [&](const Slot& slot) {
    return slot.region.guest_address == region.guest_address &&
           slot.region.user_address == region.user_address && slot.region.size == region.size;
  });
  if (it == slots_.end()) {
    return Fail(Code::kNotFound, "no such memory region");
  }
  Slot removed = std::move(*it);
  const auto at = slots_.erase(it);
  auto mapped = Map(slots_);
  if (!mapped) {
    slots_.insert(at, std::move(removed));
    return tl::unexpected(std::move(mapped).error());
  }
  memory_ = *std::move(mapped);
  return {};
}

std::optional<mem::Gpa> SharedMemory::ToGpa(uint64_t user_address) const {
  for (const Slot& slot : slots_) {
    if (user_address >= slot.region.user_address &&
        user_address - slot.region.user_address < slot.region.size) {
      return mem::Gpa{slot.region.guest_address + (user_address - slot.region.user_address)};
    }
  }
  return std::nullopt;
}

}  // namespace wyvern::vhost_user
