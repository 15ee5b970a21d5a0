#include "mem/guest_memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"

namespace wyvern::mem {

namespace {

constexpr uint64_t kPageSize = 4096;
// Guest and host addresses agree modulo this, so that KVM can map huge pages on both sides.
constexpr uint64_t kHugePageSize = 2ULL << 20U;
// More than any host has addresses for; sums with offsets and alignments stay below 2^64.
constexpr uint64_t kMaxRegion = 1ULL << 62U;

uint64_t AlignUp(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

std::string Describe(const RegionSpec& spec) {
  return fmt::format("memory region {:#x}+{:#x}", Raw(spec.start), spec.size);
}

std::vector<RegionSpec> One(RegionSpec spec) {
  std::vector<RegionSpec> specs;
  specs.push_back(std::move(spec));
  return specs;
}

Result<> CheckSpec(const RegionSpec& spec) {
  const uint64_t start = Raw(spec.start);
  const bool fixed = spec.guest_ram && PageBytes(spec.pages) != kPageSize;
  if (fixed && (!spec.fd.valid() || spec.size % kHugePageSize != 0)) {
    return Fail(Code::kInvalidArgument, "memory of huge pages is a memfd, in multiples of 2 MiB");
  }
  if (spec.size == 0 || spec.size % kPageSize != 0 || start % kPageSize != 0 ||
      spec.fd_offset % kPageSize != 0 || spec.size > kMaxRegion ||
      start > std::numeric_limits<uint64_t>::max() - spec.size) {
    return Fail(Code::kInvalidArgument,
                "start, size and file offset must be multiples of 4096 and fit");
  }
  if (!spec.fd.valid()) {
    return {};
  }
  WV_TRY(const auto st, Fstat(spec.fd));
  // Past the last page of a file an access is SIGBUS, so the file must reach into the last page.
  const auto file_size = static_cast<uint64_t>(st.st_size < 0 ? 0 : st.st_size);
  const uint64_t rounded = AlignUp(file_size, kPageSize);
  if (spec.size > rounded || spec.fd_offset > rounded - spec.size) {
    return Fail(Code::kInvalidArgument, fmt::format("its file has only {} bytes", file_size));
  }
  return {};
}

// Bytes of what the kernel maps as one. Memory of ours is not asked: a thread that plugs it may not
// ask (jail/).
Result<uint64_t> PageSizeOf(const RegionSpec& spec) {
  if (!spec.fd.valid() || spec.guest_ram) {
    return PageBytes(spec.guest_ram ? spec.pages : RamPages::kTransparent);
  }

  struct statfs system {};

  if (::fstatfs(spec.fd.get(), &system) != 0) {
    return SysError("fstatfs");
  }
  return system.f_type == HUGETLBFS_MAGIC ? static_cast<uint64_t>(system.f_bsize) : kPageSize;
}

// What the kernel maps as one, of any of them.
Result<uint64_t> CheckAdjacent(std::span<const RegionSpec> specs) {
  uint64_t page = kPageSize;
  uint64_t size = 0;
  for (const RegionSpec& spec : specs) {
    WV_TRY_VOID_CONTEXT(CheckSpec(spec), Describe(spec));
    WV_TRY_CONTEXT(page, PageSizeOf(spec), Describe(spec));
    const char* wrong = nullptr;
    if (Raw(spec.start) - Raw(specs.front().start) != size) {
      wrong = "does not follow the one before it";
    } else if (spec.size > kMaxRegion - size) {
      wrong = "is too large with those before it";
    } else if (page != kPageSize && specs.size() > 1) {
      wrong = "has a file of huge pages, which cannot be one of several";
    }
    if (wrong != nullptr) {
      return Fail(Code::kInvalidArgument, fmt::format("{} {}", Describe(spec), wrong));
    }
    size += spec.size;
  }
  return page;
}

// Maps `length` bytes of the spec's file, or anonymous memory, over a reservation.
Result<> MapAt(const RegionSpec& spec, std::byte* at, uint64_t length, uint64_t fd_offset) {
  const int prot = spec.read_only ? PROT_READ : PROT_READ | PROT_WRITE;
  const int kind = spec.fd.valid() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  const bool fixed = spec.guest_ram && PageBytes(spec.pages) != kPageSize;
  if (::mmap(at, length, prot, MAP_FIXED | (fixed ? 0 : MAP_NORESERVE) | kind, spec.fd.get(),
             static_cast<off_t>(fd_offset)) == MAP_FAILED) {
    if (fixed && errno == ENOMEM) {
      return Fail(Code::kResourceExhausted,
                  fmt::format("the host has not {} free huge pages of {} MiB for it",
                              length / PageBytes(spec.pages), PageBytes(spec.pages) >> 20U));
    }
    return SysError("mmap");
  }
  // Core dumps leave guest memory out. Failure only makes a dump larger.
  (void)::madvise(at, length, MADV_DONTDUMP);
  // Most of a start is first touches of guest memory. Whether huge pages are used is the host's decision: for a memfd,
  // /sys/kernel/mm/transparent_hugepage/shmem_enabled must say so; failure means a kernel without them.
  const bool small = spec.guest_ram && spec.pages == RamPages::kSmall;
  (void)::madvise(at, length, small ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
  return {};
}

bool AlignedForAtomic(const std::byte* address) {
  return reinterpret_cast<uintptr_t>(address) % alignof(uint16_t) == 0;
}

}  // namespace

struct GuestMemory::Region {
  Gpa start{};
  uint64_t size = 0;
  UniqueFd fd;
  uint64_t fd_offset = 0;
  bool read_only = false;
  bool guest_ram = false;
  bool fixed_pages = false;
  std::shared_ptr<const Mapping> reservation;  // address space; the region is mapped inside it
  std::byte* base = nullptr;

  uint64_t offset_of(Gpa gpa) const { return Raw(gpa) - Raw(start); }

  uint64_t end() const { return Raw(start) + size; }
};

// --- MappedArea ---

uint16_t MappedArea::Load16(uint64_t offset) const {
  WV_CHECK(2 <= size_ && offset <= size_ - 2 && AlignedForAtomic(base_ + offset));
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(base_ + offset))
      .load(std::memory_order_relaxed);
}

uint16_t MappedArea::LoadAcquire16(uint64_t offset) const {
  WV_CHECK(2 <= size_ && offset <= size_ - 2 && AlignedForAtomic(base_ + offset));
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(base_ + offset))
      .load(std::memory_order_acquire);
}

void MappedArea::Store16(uint64_t offset, uint16_t value) {
  WV_CHECK(2 <= size_ && offset <= size_ - 2 && AlignedForAtomic(base_ + offset));
  std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(base_ + offset))
      .store(value, std::memory_order_relaxed);
}

void MappedArea::StoreRelease16(uint64_t offset, uint16_t value) {
  WV_CHECK(2 <= size_ && offset <= size_ - 2 && AlignedForAtomic(base_ + offset));
  std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(base_ + offset))
      .store(value, std::memory_order_release);
}

void MappedArea::Read(uint64_t offset, std::span<std::byte> out) const {
  WV_CHECK(out.size() <= size_ && offset <= size_ - out.size());
  if (!out.empty()) {
    std::memcpy(out.data(), base_ + offset, out.size());
  }
}

void MappedArea::Write(uint64_t offset, std::span<const std::byte> in) {
  WV_CHECK(in.size() <= size_ && offset <= size_ - in.size());
  if (!in.empty()) {
    std::memcpy(base_ + offset, in.data(), in.size());
  }
}

// --- GuestMemory ---

GuestMemory::GuestMemory() = default;
GuestMemory::~GuestMemory() = default;

Result<GuestMemory::RegionList> GuestMemory::MapAdjacent(std::vector<RegionSpec> specs) {
  const uint64_t start = Raw(specs.front().start);
  const uint64_t size = Raw(specs.back().start) + specs.back().size - start;
  WV_TRY(const uint64_t page, CheckAdjacent(specs));
  // The kernel takes huge pages whole: it refuses other addresses and offsets, and rounds a length up,
  // over whatever is mapped behind it. So what is mapped begins `lead` bytes before the region.
  const uint64_t lead = specs.front().fd_offset % page;
  const uint64_t mapped = AlignUp(lead + size, page);
  WV_TRY_CONTEXT(auto reserved,
                 Mapping::Create(mapped + std::max(page, kHugePageSize), PROT_NONE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, FdRef(-1)),
                 Describe(specs.front()));
  const auto reservation = std::make_shared<const Mapping>(std::move(reserved));
  const auto host = reinterpret_cast<uintptr_t>(reservation->data());
  std::byte* at = reservation->data() + (page == kPageSize ? (start - host) % kHugePageSize
                                                           : (page - host % page) % page);
  RegionList regions;
  for (RegionSpec& spec : specs) {
    const uint64_t length = AlignUp(lead + spec.size, page);
    WV_TRY_VOID_CONTEXT(MapAt(spec, at, length, spec.fd_offset - lead), Describe(spec));
    auto region = std::make_shared<Region>();
    region->start = spec.start;
    region->size = spec.size;
    region->fd = std::move(spec.fd);
    region->fd_offset = spec.fd_offset;
    region->read_only = spec.read_only;
    region->guest_ram = spec.guest_ram;
    region->fixed_pages = spec.guest_ram && PageBytes(spec.pages) != kPageSize;
    region->reservation = reservation;
    region->base = at + lead;
    regions.push_back(std::move(region));
    at += length;
  }
  return regions;
}

Result<std::shared_ptr<const GuestMemory>> GuestMemory::FromRegions(RegionList regions) {
  std::sort(regions.begin(), regions.end(),
            [](const auto& a, const auto& b) { return Raw(a->start) < Raw(b->start); });
  for (size_t i = 1; i < regions.size(); ++i) {
    if (regions[i - 1]->end() > Raw(regions[i]->start)) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("memory regions overlap at {:#x}", Raw(regions[i]->start)));
    }
  }
  std::shared_ptr<GuestMemory> memory(new GuestMemory());
  memory->regions_ = std::move(regions);
  for (const auto& region : memory->regions_) {
    memory->infos_.push_back(RegionInfo{.start = region->start,
                                        .size = region->size,
                                        .fd = FdRef(region->fd.get()),
                                        .fd_offset = region->fd_offset,
                                        .read_only = region->read_only,
                                        .guest_ram = region->guest_ram,
                                        .host_address = reinterpret_cast<uintptr_t>(region->base)});
  }
  return memory;
}

Result<std::shared_ptr<const GuestMemory>> GuestMemory::Create(std::vector<RegionSpec> regions) {
  if (regions.empty()) {
    return Fail(Code::kInvalidArgument, "guest memory needs at least one region");
  }
  RegionList mapped;
  mapped.reserve(regions.size());
  for (RegionSpec& spec : regions) {
    WV_TRY(auto region, MapAdjacent(One(std::move(spec))));
    mapped.push_back(std::move(region.front()));
  }
  return FromRegions(std::move(mapped));
}

Result<std::shared_ptr<const GuestMemory>> GuestMemory::WithRegion(RegionSpec region) const {
  return WithAdjacentRegions(One(std::move(region)));
}

Result<std::shared_ptr<const GuestMemory>> GuestMemory::WithAdjacentRegions(
    std::vector<RegionSpec> regions) const {
  if (regions.empty()) {
    return Fail(Code::kInvalidArgument, "no memory region to add");
  }
  RegionList all = regions_;
  WV_TRY(auto mapped, MapAdjacent(std::move(regions)));
  all.insert(all.end(), mapped.begin(), mapped.end());
  return FromRegions(std::move(all));
}

Result<std::shared_ptr<const GuestMemory>> GuestMemory::WithoutRegion(Gpa start) const {
  RegionList regions = regions_;
  if (std::erase_if(regions, [start](const auto& region) { return region->start == start; }) == 0) {
    return Fail(Code::kNotFound, fmt::format("no memory region starts at {:#x}", Raw(start)));
  }
  if (regions.empty()) {
    return Fail(Code::kFailedPrecondition, "guest memory needs at least one region");
  }
  return FromRegions(std::move(regions));
}

const GuestMemory::Region* GuestMemory::Find(Gpa gpa) const {
  auto after = std::upper_bound(
      regions_.begin(), regions_.end(), Raw(gpa),
      [](uint64_t address, const auto& region) { return address < Raw(region->start); });
  if (after == regions_.begin()) {
    return nullptr;
  }
  const Region* region = std::prev(after)->get();
  return region->offset_of(gpa) < region->size ? region : nullptr;
}

template <typename Visit>
MemResult<> GuestMemory::ForEachPart(Gpa start, uint64_t length, bool writable, Visit visit) const {
  if (length > std::numeric_limits<uint64_t>::max() - Raw(start)) {
    return tl::unexpected(MemFault::kOutOfRange);
  }
  // First the whole range is checked, so that a faulting access changes nothing.
  uint64_t at = Raw(start);
  uint64_t left = length;
  while (left > 0) {
    const Region* region = Find(Gpa{at});
    if (region == nullptr) {
      return tl::unexpected(MemFault::kOutOfRange);
    }
    if (writable && region->read_only) {
      return tl::unexpected(MemFault::kReadOnly);
    }
    const uint64_t part = std::min(left, region->end() - at);
    at += part;
    left -= part;
  }
  at = Raw(start);
  left = length;
  while (left > 0) {
    const Region* region = Find(Gpa{at});
    const uint64_t part = std::min(left, region->end() - at);
    if (!visit(region->base + region->offset_of(Gpa{at}), part)) {
      return tl::unexpected(MemFault::kTooManyParts);
    }
    at += part;
    left -= part;
  }
  return {};
}

MemResult<> GuestMemory::ReadBytes(Gpa from, std::span<std::byte> to) const {
  std::byte* out = to.data();
  return ForEachPart(from, to.size(), false, [&](const std::byte* host, uint64_t bytes) {
    std::memcpy(out, host, bytes);
    out += bytes;
    return true;
  });
}

MemResult<> GuestMemory::WriteBytes(Gpa to, std::span<const std::byte> from) const {
  const std::byte* in = from.data();
  return ForEachPart(to, from.size(), true, [&](std::byte* host, uint64_t bytes) {
    std::memcpy(host, in, bytes);
    in += bytes;
    return true;
  });
}

MemResult<> GuestMemory::ToIovecs(Gpa start, uint64_t length, bool writable, size_t max_parts,
                                  std::vector<iovec>* out) const {
  const size_t before = out->size();
  auto done = ForEachPart(start, length, writable, [&](std::byte* host, uint64_t bytes) {
    if (out->size() - before == max_parts) {
      return false;
    }
    out->push_back(iovec{.iov_base = host, .iov_len = bytes});
    return true;
  });
  if (!done) {
    out->resize(before);
  }
  return done;
}

MemResult<MappedArea> GuestMemory::Map(Gpa start, uint64_t length, uint64_t alignment,
                                       bool writable) const {
  WV_CHECK(alignment != 0 && alignment <= kPageSize && (alignment & (alignment - 1)) == 0);
  if (Raw(start) % alignment != 0) {
    return tl::unexpected(MemFault::kUnaligned);
  }
  const Region* region = Find(start);
  if (region == nullptr || length > region->size ||
      region->offset_of(start) > region->size - length) {
    return tl::unexpected(MemFault::kOutOfRange);
  }
  if (writable && region->read_only) {
    return tl::unexpected(MemFault::kReadOnly);
  }
  MappedArea area;
  area.keep_ = region->reservation;
  area.base_ = region->base + region->offset_of(start);
  area.size_ = length;
  return area;
}

bool GuestMemory::Contains(Gpa start, uint64_t length) const {
  if (length == 0) {
    return Find(start) != nullptr;
  }
  return ForEachPart(start, length, false, [](std::byte*, uint64_t) { return true; }).has_value();
}

MemResult<> GuestMemory::FreeRange(Gpa start, uint64_t length) const {
  if (Raw(start) % kPageSize != 0 || length % kPageSize != 0) {
    return tl::unexpected(MemFault::kUnaligned);
  }
  const Region* region = Find(start);
  if (region == nullptr || length == 0 || length > region->size ||
      region->offset_of(start) > region->size - length) {
    return tl::unexpected(MemFault::kOutOfRange);
  }
  if (region->read_only) {
    return tl::unexpected(MemFault::kReadOnly);
  }
  if (!region->guest_ram) {
    return tl::unexpected(MemFault::kNotRam);
  }
  if (region->fixed_pages) {
    return tl::unexpected(MemFault::kHostRefused);
  }
  const uint64_t offset = region->offset_of(start);
  int failed = 0;
  do {
    // A hole in the memfd is gone from every process that maps it; private memory has only us.
    failed = region->fd.valid()
                 ? ::fallocate(region->fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               static_cast<off_t>(region->fd_offset + offset),
                               static_cast<off_t>(length))
                 : ::madvise(region->base + offset, length, MADV_DONTNEED);
  } while (failed != 0 && errno == EINTR);
  if (failed != 0) {
    return tl::unexpected(MemFault::kHostRefused);
  }
  return {};
}

}  // namespace wyvern::mem
