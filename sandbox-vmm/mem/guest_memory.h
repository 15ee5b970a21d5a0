// mem/guest_memory.h — guest physical memory as an immutable list of regions; the one place where a
// guest address becomes a host one.
// Shape:   regions sorted by address, not overlapping, page-aligned. Hot-plug publishes a new
//          GuestMemory. Regions that are added together and follow each other do so in the host's
//          addresses too: one memslot can hold them. They stay several, since each is one file, which
//          is what a vhost-user back-end is told of.
// Units:   Gpa is a guest physical address; sizes in bytes.
// Errors:  MemFault for what the guest named (out of range, read-only): typed, no allocation, no
//          text.
// Threads: immutable after Create; reads and writes race with the guest's vCPUs by nature: fetch
//          once, then check.
// Trust:   every Gpa and length comes from the guest. The range test is `len <= size && off <= size
//          - len`.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/mapping.h"

namespace wyvern::mem {

enum class Gpa : uint64_t {};

constexpr uint64_t Raw(Gpa gpa) {
  return static_cast<uint64_t>(gpa);
}

enum class MemFault : uint8_t {
  kOutOfRange = 1,  // not (wholly) inside the guest's memory
  kReadOnly = 2,    // a write to a read-only region
  kUnaligned = 3,   // an atomic access that is not naturally aligned
  kTooManyParts = 4,
  kNotRam = 5,  // FreeRange of a region that was not given as guest RAM
  kHostRefused =
      6,  // FreeRange: the host's call failed, or it is of fixed huge pages; the memory is as it was
};

template <typename T = void>
using MemResult = tl::expected<T, MemFault>;

// What the host backs guest RAM with. Pages of a fixed size are those of the host's pool: they are reserved when they are mapped, so that a
// guest that touches its memory later never finds the pool empty (which is SIGBUS), and they are not given back before the region goes.
enum class RamPages : uint8_t {
  kTransparent,  // small ones, made huge where /sys/kernel/mm/transparent_hugepage lets who asks for it
  kSmall,        // never made huge
  k2MiB,
  k1GiB,
};

constexpr uint64_t PageBytes(RamPages pages) {
  return pages == RamPages::k2MiB ? 2ULL << 20U : pages == RamPages::k1GiB ? 1ULL << 30U : 4096;
}

struct RegionSpec {
  Gpa start{};
  uint64_t size = 0;  // multiple of 4096
  // memfd or file, mapped MAP_SHARED; invalid: private anonymous memory. One of huge pages is mapped
  // in whole ones, whatever part of them the region is.
  UniqueFd fd;
  uint64_t fd_offset = 0;  // page-aligned
  bool read_only = false;  // mapped PROT_READ
  // Memory that the guest may give back by FreeRange: anonymous, or a memfd of ours. Never an image
  // or a file: a hole punched in it would be a hole in the file.
  bool guest_ram = false;
  // Of guest_ram. Fixed ones: `fd` is a memfd of that size of pages (MFD_HUGETLB).
  RamPages pages = RamPages::kTransparent;
};

struct RegionInfo {
  Gpa start{};
  uint64_t size = 0;
  FdRef fd{-1};  // -1: anonymous
  uint64_t fd_offset = 0;
  bool read_only = false;
  bool guest_ram = false;
  uint64_t host_address =
      0;  // for KVM_SET_USER_MEMORY_REGION and SET_MEM_TABLE's userspace address only
};

// A bounds-checked window on one region that stays mapped while this lives: what a virtqueue keeps
// of its rings. Offsets are ours and checked by WV_CHECK: the queue validated the ring's size once;
// what is read through it is guest-controlled.
class MappedArea {
 public:
  MappedArea() = default;

  uint64_t size() const { return size_; }

  uint16_t Load16(uint64_t offset) const;  // relaxed
  uint16_t LoadAcquire16(uint64_t offset) const;
  void Store16(uint64_t offset, uint16_t value);  // relaxed
  void StoreRelease16(uint64_t offset, uint16_t value);
  void Read(uint64_t offset, std::span<std::byte> out) const;
  void Write(uint64_t offset, std::span<const std::byte> in);

 private:
  friend class GuestMemory;
  std::shared_ptr<const Mapping> keep_;
  std::byte* base_ = nullptr;
  uint64_t size_ = 0;
};

class GuestMemory {
 public:
  // Maps every region. Takes the fds. INVALID_ARGUMENT: overlap, misalignment, a fd smaller than
  // its region. RESOURCE_EXHAUSTED: the host's pool has not enough huge pages.
  static Result<std::shared_ptr<const GuestMemory>> Create(std::vector<RegionSpec> regions);

  // This memory and one more region: the regions' mappings are shared, so both stay valid. Errors
  // as Create.
  Result<std::shared_ptr<const GuestMemory>> WithRegion(RegionSpec region) const;

  // This memory and regions that follow each other without a gap, in guest and host addresses. All
  // or none. Errors as Create; INVALID_ARGUMENT also: a gap, a file of huge pages among several.
  Result<std::shared_ptr<const GuestMemory>> WithAdjacentRegions(
      std::vector<RegionSpec> regions) const;

  // This memory less the region that starts at `start`: whoever holds the old list still reaches
  // it. NOT_FOUND: no region starts there. FAILED_PRECONDITION: it is the last one.
  Result<std::shared_ptr<const GuestMemory>> WithoutRegion(Gpa start) const;

  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  MemResult<> ReadBytes(Gpa from, std::span<std::byte> to) const;  // may cross adjacent regions
  MemResult<> WriteBytes(Gpa to, std::span<const std::byte> from) const;

  template <typename T>
  MemResult<T> Read(Gpa from) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    auto copied = ReadBytes(from, std::as_writable_bytes(std::span(&value, 1)));
    if (!copied) {
      return tl::unexpected(copied.error());
    }
    return value;
  }

  template <typename T>
  MemResult<> Write(Gpa to, const T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    return WriteBytes(to, std::as_bytes(std::span(&value, 1)));
  }

  // Host iovecs of [start, start + length), appended to `out`, for readv/writev/io_uring: valid
  // while this object lives. `writable`: the caller will write through them. At most `max_parts`
  // are appended.
  MemResult<> ToIovecs(Gpa start, uint64_t length, bool writable, size_t max_parts,
                       std::vector<iovec>* out) const;

  // [start, start + length) inside ONE region, `alignment` checked.
  MemResult<MappedArea> Map(Gpa start, uint64_t length, uint64_t alignment, bool writable) const;

  bool Contains(Gpa start, uint64_t length) const;

  // Gives [start, start + length) back to the host with one call: from now on it reads as zeros,
  // and costs nothing until it is touched again. Multiples of 4096, inside ONE region of guest_ram:
  // what leaves its region is refused whole (kOutOfRange), so that no hole is ever punched where
  // the region's file goes on with something else. Fixed huge pages are kept (kHostRefused): what
  // is reserved for the guest would go with them.
  MemResult<> FreeRange(Gpa start, uint64_t length) const;

  std::span<const RegionInfo> regions() const { return infos_; }

 private:
  struct Region;
  GuestMemory();
  using RegionList = std::vector<std::shared_ptr<const Region>>;
  static Result<RegionList> MapAdjacent(std::vector<RegionSpec> specs);
  static Result<std::shared_ptr<const GuestMemory>> FromRegions(RegionList regions);
  const Region* Find(Gpa gpa) const;
  // Calls visit(host pointer, bytes) for each region's part of the range; faults before the first
  // call.
  template <typename Visit>
  MemResult<> ForEachPart(Gpa start, uint64_t length, bool writable, Visit visit) const;
  RegionList regions_;
  std::vector<RegionInfo> infos_;
};

}  // namespace wyvern::mem
