// loader/elf.h — a 64-bit ELF kernel with a PVH entry, from a file into guest memory.
// Spec:    System V gABI (ELF64); Xen public/elfnote.h (XEN_ELFNOTE_PHYS32_ENTRY).
// Shape:   ParseElf reads headers and notes only; LoadSegments reads the segments straight into guest memory.
// Errors:  INVALID_ARGUMENT says what is wrong with the file and what would be accepted.
// Trust:   every byte of the file is hostile: all sums are overflow-checked, counts and note sizes bounded.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "mem/guest_memory.h"

namespace wyvern::loader {

// Random access to the file; a fd in the product, bytes in tests.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual uint64_t size() const = 0;
  // Fills `out` from `offset`; an error when the file ends first.
  virtual Result<> ReadAt(uint64_t offset, std::span<std::byte> out) const = 0;
};

class FdSource : public ByteSource {
 public:
  // A regular file or memfd; borrowed.
  static Result<FdSource> Create(FdRef file);

  uint64_t size() const override { return size_; }

  Result<> ReadAt(uint64_t offset, std::span<std::byte> out) const override;

 private:
  FdSource(FdRef file, uint64_t size) : file_(file), size_(size) {}

  FdRef file_;
  uint64_t size_;
};

class MemorySource : public ByteSource {
 public:
  explicit MemorySource(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint64_t size() const override { return bytes_.size(); }

  Result<> ReadAt(uint64_t offset, std::span<std::byte> out) const override;

 private:
  std::span<const std::byte> bytes_;
};

struct Segment {
  uint64_t file_offset = 0;
  uint64_t file_size = 0;
  uint64_t address = 0;      // physical
  uint64_t memory_size = 0;  // ≥ file_size; the rest is zero
};

struct ElfKernel {
  std::vector<Segment> segments;  // sorted by address, not overlapping
  uint32_t pvh_entry = 0;         // physical, inside a segment
};

constexpr uint16_t kMachineX86 = 62;  // EM_X86_64

Result<ElfKernel> ParseElf(const ByteSource& file, uint16_t machine);

// Copies the segments to `memory`, which must be all zero there. Every segment must lie in [lowest, highest). Returns the end of the
// highest segment.
Result<uint64_t> LoadSegments(const ElfKernel& kernel, FdRef file, const mem::GuestMemory& memory,
                              uint64_t lowest, uint64_t highest);

// Reads `size` bytes of `file` from `offset` to guest memory at `to`. The range must be inside `memory`.
Result<> ReadIntoGuest(FdRef file, uint64_t offset, uint64_t size, const mem::GuestMemory& memory,
                       mem::Gpa to);

}  // namespace wyvern::loader
