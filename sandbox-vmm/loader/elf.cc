#include "loader/elf.h"

#include <elf.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/endian.h"

namespace wyvern::loader {

namespace {

constexpr uint16_t kMaxProgramHeaders = 128;
constexpr uint64_t kMaxNotes = 64 << 10U;
constexpr uint32_t kXenPhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr size_t kNoteHeader = 12;
constexpr const char* kWanted =
    "; wanted: an uncompressed 64-bit ELF (vmlinux) built with CONFIG_PVH=y";

bool Fits(uint64_t offset, uint64_t length, uint64_t size) {
  return length <= size && offset <= size - length;
}

tl::unexpected<Error> Bad(std::string what) {
  return Fail(Code::kInvalidArgument, "kernel image: " + std::move(what) + kWanted);
}

template <typename T>
Result<T> ReadStruct(const ByteSource& file, uint64_t offset) {
  T value;
  WV_TRY_VOID(file.ReadAt(offset, std::as_writable_bytes(std::span(&value, 1))));
  return value;
}

uint32_t LoadLe32(std::span<const std::byte> bytes, uint64_t offset) {
  Le32 value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

// What else people hand us as a kernel.
std::string Describe(std::span<const std::byte> head) {
  const auto starts = [&](std::initializer_list<unsigned> magic, size_t at) {
    size_t i = at;
    return std::all_of(magic.begin(), magic.end(), [&](unsigned byte) {
      return i < head.size() && head[i++] == static_cast<std::byte>(byte);
    });
  };
  if (starts({'H', 'd', 'r', 'S'}, 0x202)) {
    return "it is a bzImage, which must be unpacked first (wyvern guest import does)";
  }
  if (starts({0x1f, 0x8b}, 0)) {
    return "it is gzip-compressed";
  }
  if (starts({0x28, 0xb5, 0x2f, 0xfd}, 0)) {
    return "it is zstd-compressed";
  }
  return "it is not an ELF file";
}

Result<Elf64_Ehdr> ReadHeader(const ByteSource& file, uint16_t machine) {
  std::array<std::byte, 0x210> head{};
  const size_t have = static_cast<size_t>(std::min<uint64_t>(head.size(), file.size()));
  WV_TRY_VOID(file.ReadAt(0, std::span(head).first(have)));
  if (have < sizeof(Elf64_Ehdr) || std::memcmp(head.data(), ELFMAG, SELFMAG) != 0) {
    return Bad(Describe(std::span(head).first(have)));
  }
  Elf64_Ehdr header;
  std::memcpy(&header, head.data(), sizeof(header));
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB) {
    return Bad("it is not a 64-bit little-endian ELF");
  }
  if (header.e_machine != machine) {
    return Bad(fmt::format("it is for another architecture (ELF machine {})", header.e_machine));
  }
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
    return Bad(fmt::format("it is no executable (ELF type {})", header.e_type));
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 ||
      header.e_phnum > kMaxProgramHeaders ||
      !Fits(header.e_phoff, uint64_t{header.e_phnum} * sizeof(Elf64_Phdr), file.size())) {
    return Bad("its program headers are damaged");
  }
  return header;
}

// The PVH entry in one PT_NOTE segment, if it is there.
std::optional<uint64_t> FindEntry(std::span<const std::byte> notes, uint64_t alignment) {
  uint64_t at = 0;
  const auto padded = [&](uint64_t length) {
    return (length + alignment - 1) / alignment * alignment;
  };
  while (Fits(at, kNoteHeader, notes.size())) {
    const uint64_t name_size = LoadLe32(notes, at);
    const uint64_t desc_size = LoadLe32(notes, at + 4);
    const uint32_t type = LoadLe32(notes, at + 8);
    at += kNoteHeader;
    const uint64_t name_at = at;
    const uint64_t desc_at = name_at + padded(name_size);
    if (!Fits(name_at, name_size, notes.size()) || !Fits(desc_at, desc_size, notes.size())) {
      return std::nullopt;
    }
    if (type == kXenPhys32Entry && name_size == 4 &&
        std::memcmp(notes.data() + name_at, "Xen", 4) == 0 && (desc_size == 4 || desc_size == 8)) {
      uint64_t value = LoadLe32(notes, desc_at);
      if (desc_size == 8) {
        value |= uint64_t{LoadLe32(notes, desc_at + 4)} << 32U;
      }
      return value;
    }
    at = desc_at + padded(desc_size);
  }
  return std::nullopt;
}

Result<> CheckSegments(std::vector<Segment>* segments) {
  std::sort(segments->begin(), segments->end(),
            [](const Segment& a, const Segment& b) { return a.address < b.address; });
  for (size_t i = 1; i < segments->size(); ++i) {
    const Segment& before = (*segments)[i - 1];
    if (before.address + before.memory_size > (*segments)[i].address) {
      return Bad("its segments overlap");
    }
  }
  return {};
}

Result<Segment> CheckLoad(const Elf64_Phdr& header, uint64_t file_size) {
  if (header.p_filesz > header.p_memsz || !Fits(header.p_offset, header.p_filesz, file_size) ||
      header.p_memsz > std::numeric_limits<uint64_t>::max() - header.p_paddr) {
    return Bad("a segment is damaged or the file is cut short");
  }
  return Segment{.file_offset = header.p_offset,
                 .file_size = header.p_filesz,
                 .address = header.p_paddr,
                 .memory_size = header.p_memsz};
}

Result<std::optional<uint64_t>> ReadNotes(const ByteSource& file, const Elf64_Phdr& header) {
  if (header.p_filesz > kMaxNotes || !Fits(header.p_offset, header.p_filesz, file.size())) {
    return Bad("its notes are damaged");
  }
  std::vector<std::byte> notes(header.p_filesz);
  WV_TRY_VOID(file.ReadAt(header.p_offset, notes));
  return FindEntry(notes, header.p_align == 8 ? 8 : 4);
}

}  // namespace

Result<FdSource> FdSource::Create(FdRef file) {
  WV_TRY_CONTEXT(const auto st, Fstat(file), "kernel image");
  if (!S_ISREG(st.st_mode) || st.st_size < 0) {
    return Fail(Code::kInvalidArgument, "kernel image: not a regular file");
  }
  return FdSource(file, static_cast<uint64_t>(st.st_size));
}

Result<> FdSource::ReadAt(uint64_t offset, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t got = ::pread(file_.get(), out.data() + done, out.size() - done,
                                static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return SysError("reading the kernel image");
    }
    if (got == 0) {
      return Fail(Code::kDataLoss, "kernel image: the file ends early");
    }
    done += static_cast<size_t>(got);
  }
  return {};
}

Result<> MemorySource::ReadAt(uint64_t offset, std::span<std::byte> out) const {
  if (!Fits(offset, out.size(), bytes_.size())) {
    return Fail(Code::kDataLoss, "kernel image: the file ends early");
  }
  std::copy_n(bytes_.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
  return {};
}

Result<ElfKernel> ParseElf(const ByteSource& file, uint16_t machine) {
  WV_TRY(const Elf64_Ehdr header, ReadHeader(file, machine));
  ElfKernel kernel;
  std::optional<uint64_t> entry;
  for (uint16_t i = 0; i < header.e_phnum; ++i) {
    WV_TRY(const auto program,
           ReadStruct<Elf64_Phdr>(file, header.e_phoff + uint64_t{i} * sizeof(Elf64_Phdr)));
    if (program.p_type == PT_LOAD && program.p_memsz > 0) {
      WV_TRY(const Segment segment, CheckLoad(program, file.size()));
      kernel.segments.push_back(segment);
    } else if (program.p_type == PT_NOTE && !entry) {
      WV_TRY(entry, ReadNotes(file, program));
    }
  }
  WV_TRY_VOID(CheckSegments(&kernel.segments));
  if (!entry) {
    return Bad("it has no PVH entry (no Xen note of type 18)");
  }
  const bool inside = std::any_of(
      kernel.segments.begin(), kernel.segments.end(),
      [&](const Segment& s) { return *entry >= s.address && *entry - s.address < s.file_size; });
  if (!inside || *entry > std::numeric_limits<uint32_t>::max()) {
    return Bad("its PVH entry points outside of it");
  }
  kernel.pvh_entry = static_cast<uint32_t>(*entry);
  return kernel;
}

Result<> ReadIntoGuest(FdRef file, uint64_t offset, uint64_t size, const mem::GuestMemory& memory,
                       mem::Gpa to) {
  std::vector<iovec> parts;
  WV_CHECK(memory.ToIovecs(to, size, true, 16, &parts).has_value());
  for (iovec part : parts) {
    while (part.iov_len > 0) {
      const ssize_t got =
          ::pread(file.get(), part.iov_base, part.iov_len, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) {
        continue;
      }
      if (got < 0) {
        return SysError("reading an image into guest memory");
      }
      if (got == 0) {
        return Fail(Code::kDataLoss, "an image became shorter while it was read");
      }
      part.iov_base = static_cast<std::byte*>(part.iov_base) + got;
      part.iov_len -= static_cast<size_t>(got);
      offset += static_cast<uint64_t>(got);
    }
  }
  return {};
}

Result<uint64_t> LoadSegments(const ElfKernel& kernel, FdRef file, const mem::GuestMemory& memory,
                              uint64_t lowest, uint64_t highest) {
  uint64_t end = lowest;
  for (const Segment& segment : kernel.segments) {
    if (segment.address < lowest || segment.address > highest ||
        segment.memory_size > highest - segment.address ||
        !memory.Contains(mem::Gpa{segment.address}, segment.memory_size)) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("kernel image: a segment at {:#x}+{:#x} does not fit in guest memory "
                              "[{:#x}, {:#x}); give the sandbox more memory or another kernel",
                              segment.address, segment.memory_size, lowest, highest));
    }
    WV_TRY_VOID(ReadIntoGuest(file, segment.file_offset, segment.file_size, memory,
                              mem::Gpa{segment.address}));
    end = segment.address + segment.memory_size;
  }
  return end;
}

}  // namespace wyvern::loader
