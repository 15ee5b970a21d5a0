#include "vhost_user/shared_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

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
Result<> CheckRegion(const MemoryRegion& region, std::span<const MemoryRegion> others) {
  if (Wraps(region.guest_address, region.size) || Wraps(region.user_address, region.size) ||
      region.mmap_offset > static_cast<uint64_t>(INT64_MAX) ||
      region.size > static_cast<uint64_t>(INT64_MAX) - region.mmap_offset) {
    return Fail(Code::kInvalidArgument,
                fmt::format("memory region at {:#x} of {:#x} bytes wraps around",
                            region.guest_address, region.size));
  }
  for (const MemoryRegion& other : others) {
    if (Overlap(region.user_address, region.size, other.user_address, other.size)) {
      return Fail(Code::kInvalidArgument, "memory regions overlap in the front-end");
    }
  }
  return {};
}

Result<mem::RegionSpec> ToSpec(const MemoryRegion& region, UniqueFd fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0) {
    return SysError("fcntl(F_GETFL) of a memory region");
  }
  mem::RegionSpec spec;
  spec.start = mem::Gpa{region.guest_address};
  spec.size = region.size;
  spec.fd = std::move(fd);
  spec.fd_offset = region.mmap_offset;
  // A device may only read what the guest may only read (pmem).
  spec.read_only = (flags & O_ACCMODE) == O_RDONLY;
  return spec;
}

}  // namespace

Result<> SharedMemory::Replace(std::span<const MemoryRegion> regions, std::vector<UniqueFd> fds) {
  if (regions.size() != fds.size()) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{} memory regions with {} descriptors", regions.size(), fds.size()));
  }
  std::vector<mem::RegionSpec> specs;
  for (size_t i = 0; i < regions.size(); ++i) {
    WV_TRY_VOID(CheckRegion(regions[i], regions.first(i)));
    WV_TRY(mem::RegionSpec spec, ToSpec(regions[i], std::move(fds[i])));
    specs.push_back(std::move(spec));
  }
  WV_TRY(memory_, mem::GuestMemory::Create(std::move(specs)));
  slots_.assign(regions.begin(), regions.end());
  return {};
}

Result<> SharedMemory::Add(const MemoryRegion& region, UniqueFd fd) {
  if (slots_.size() >= kMaxSlots) {
    return Fail(Code::kResourceExhausted, "too many memory regions");
  }
  WV_TRY_VOID(CheckRegion(region, slots_));
  WV_TRY(mem::RegionSpec spec, ToSpec(region, std::move(fd)));
  if (memory_ != nullptr) {
    WV_TRY(memory_, memory_->WithRegion(std::move(spec)));
  } else {
    std::vector<mem::RegionSpec> first;
    first.push_back(std::move(spec));
    WV_TRY(memory_, mem::GuestMemory::Create(std::move(first)));
  }
  slots_.push_back(region);
  return {};
}

bool SharedMemory::Has(const MemoryRegion& region, FdRef fd) const {
  const auto same_slot = [&](const MemoryRegion& slot) {
    return slot.guest_address == region.guest_address && slot.user_address == region.user_address &&
           slot.size == region.size && slot.mmap_offset == region.mmap_offset;
  };
  if (std::ranges::none_of(slots_, same_slot)) {
    return false;
  }
  const auto mapped = std::ranges::find(memory_->regions(), mem::Gpa{region.guest_address},
                                        &mem::RegionInfo::start);

  struct stat ours {};

  struct stat theirs {};

  return mapped != memory_->regions().end() && ::fstat(mapped->fd.get(), &ours) == 0 &&
         ::fstat(fd.get(), &theirs) == 0 && ours.st_dev == theirs.st_dev &&
         ours.st_ino == theirs.st_ino;
}

Result<> SharedMemory::Remove(const MemoryRegion& region) {
  const auto it = std::ranges::find_if(slots_, [&](const MemoryRegion& slot) {
    return slot.guest_address == region.guest_address && slot.user_address == region.user_address &&
           slot.size == region.size;
  });
  if (it == slots_.end()) {
    return Fail(Code::kNotFound, "no such memory region");
  }
  if (slots_.size() > 1) {
    WV_TRY(memory_, memory_->WithoutRegion(mem::Gpa{region.guest_address}));
  } else {
    memory_.reset();
  }
  slots_.erase(it);
  return {};
}

std::optional<mem::Gpa> SharedMemory::ToGpa(uint64_t user_address) const {
  for (const MemoryRegion& slot : slots_) {
    if (user_address >= slot.user_address && user_address - slot.user_address < slot.size) {
      return mem::Gpa{slot.guest_address + (user_address - slot.user_address)};
    }
  }
  return std::nullopt;
}

}  // namespace wyvern::vhost_user
