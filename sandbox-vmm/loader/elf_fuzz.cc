// A kernel's ELF file, of any bytes or built field by field, parsed, loaded and given its start info:
// what is accepted holds its promises, and a sound file is accepted.
// Input:   1 B what follows: even the file itself, odd a script of little-endian fields:
//          1 B code (16 B each); 1 B more program headers (mod 6), each 1 B type, 2 B page, 1 B offset,
//          1 B size in the file, 1 B in memory (16 B each); 1 B notes (mod 5), each 1 B name, 1 B type,
//          1 B form, 4 B value; 1 B alignment of notes; 1 B damages (mod 4), each 1 B where, 1 B field,
//          8 B value; 2 B that the file is shorter, 1 B when; then the start info: 2 B length of the
//          command line, 1 B what of it is a zero byte, 1 B ranges, 1 B modules, 8 B address.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/endian.h"
#include "base/testing/fuzz_input.h"
#include "loader/elf.h"
#include "loader/pvh.h"
#include "loader/testing/elf_builder.h"

namespace wyvern::loader {
namespace {

using mem::Gpa;
using testing::TestElf;

constexpr uint64_t kMemory = 1 << 20;
constexpr uint64_t kEnd = TestElf::kLoadAddress + kMemory;

void CheckPromises(const ElfKernel& kernel, uint64_t size) {
  bool entry_inside = false;
  uint64_t last_end = 0;
  for (const Segment& segment : kernel.segments) {
    WV_CHECK(segment.file_size <= segment.memory_size);
    WV_CHECK(segment.file_size <= size && segment.file_offset <= size - segment.file_size);
    WV_CHECK(segment.address >= last_end);
    last_end = segment.address + segment.memory_size;
    WV_CHECK(last_end >= segment.address);
    entry_inside = entry_inside || (kernel.pvh_entry >= segment.address &&
                                    kernel.pvh_entry - segment.address < segment.file_size);
  }
  WV_CHECK(entry_inside);
}

Result<ElfKernel> Parse(std::span<const std::byte> file) {
  auto kernel = ParseElf(MemorySource(file), kMachineX86);
  if (kernel) {
    CheckPromises(*kernel, file.size());
  } else {
    WV_CHECK(!kernel.error().message().empty());
  }
  return kernel;
}

// --- A file by a script ---

// What the script says that the file is, without damage.
struct Plan {
  TestElf elf;
  std::optional<uint64_t> entry;  // of the first note that tells one
  bool sound = true;              // but for the entry
};

void AddProgram(FuzzInput& input, Plan& plan) {
  constexpr std::array<uint32_t, 8> kTypes = {PT_LOAD, PT_LOAD, PT_LOAD, PT_NULL,
                                              PT_PHDR, PT_NOTE, PT_TLS,  PT_GNU_STACK};
  Elf64_Phdr program{};
  program.p_type = kTypes[input.Byte() % kTypes.size()];
  program.p_paddr = TestElf::kLoadAddress + uint64_t{input.Word()} * 4096;
  program.p_offset = uint64_t{input.Byte()} * 16;
  program.p_filesz = uint64_t{input.Byte()} * 16;
  program.p_memsz = uint64_t{input.Byte()} * 16;
  program.p_align = 4;
  // Others may be wrong, over one another, or have notes.
  plan.sound = plan.sound && program.p_type != PT_LOAD && program.p_type != PT_NOTE;
  plan.elf.programs.push_back(program);
}

void AddNote(FuzzInput& input, Plan& plan) {
  constexpr std::array<const char*, 4> kNames = {"Xen", "Xen", "GNU", "Linux"};
  const char* name = kNames[input.Byte() % kNames.size()];
  const uint8_t type_byte = input.Byte();
  const uint32_t type = type_byte % 4 == 3 ? type_byte : 18;
  const uint8_t form = input.Byte();
  const uint32_t value = input.Word32();
  const uint64_t told = (form & 0x80U) != 0 ? value : TestElf::kLoadAddress + value % 0x2000;
  const Le64 wide = (form & 0x40U) != 0 ? told | uint64_t{value} << 32U : told;
  constexpr std::array<size_t, 8> kSizes = {4, 4, 4, 8, 8, 8, 0, 7};
  const size_t size = kSizes[form % kSizes.size()];
  plan.elf.AddNote(name, type, std::as_bytes(std::span(&wide, 1)).first(size));
  if (!plan.entry && type == 18 && std::string(name) == "Xen" && (size == 4 || size == 8)) {
    plan.entry = size == 4 ? static_cast<uint32_t>(wide) : wide.value();
  }
}

template <typename T>
void Set(T& field, uint64_t value) {
  field = static_cast<T>(value);
}

void DamageProgram(Elf64_Phdr& program, uint8_t field, uint64_t value) {
  switch (field % 6) {
    case 0:
      return Set(program.p_type, value);
    case 1:
      return Set(program.p_offset, value);
    case 2:
      return Set(program.p_paddr, value);
    case 3:
      return Set(program.p_filesz, value);
    case 4:
      return Set(program.p_memsz, value);
    default:
      return Set(program.p_align, value);
  }
}

void DamageHeader(Elf64_Ehdr& header, uint8_t field, uint64_t value) {
  switch (field % 8) {
    case 0:
      header.e_ident[value % EI_NIDENT] = static_cast<uint8_t>(value >> 8U);
      return;
    case 1:
      return Set(header.e_type, value);
    case 2:
      return Set(header.e_machine, value);
    case 3:
      return Set(header.e_phoff, value);
    case 4:
      return Set(header.e_phentsize, value);
    case 5:
      return Set(header.e_phnum, value);
    case 6:
      return Set(header.e_entry, value);
    default:
      return Set(header.e_version, value);
  }
}

// One field of header, program headers or notes.
void Damage(FuzzInput& input, Plan& plan) {
  const uint8_t where = input.Byte();
  const uint8_t field = input.Byte();
  const uint64_t value = input.Word64();
  plan.sound = false;
  std::vector<std::byte>& notes = plan.elf.notes;
  if (where % 4 == 0) {
    DamageHeader(plan.elf.header, field, value);
  } else if (where % 4 == 3 && notes.size() >= sizeof(uint32_t)) {
    const uint64_t at = field % (notes.size() / sizeof(uint32_t)) * sizeof(uint32_t);
    const auto word = static_cast<uint32_t>(value);
    std::memcpy(notes.data() + at, &word, sizeof(word));
  } else {
    DamageProgram(plan.elf.programs[(where >> 2U) % plan.elf.programs.size()], field, value);
  }
}

Plan MakePlan(FuzzInput& input) {
  Plan plan;
  TestElf& elf = plan.elf;
  elf.notes.clear();
  elf.code.resize(size_t{input.Byte()} * 16, std::byte{0x90});
  for (size_t i = 0; i < elf.code.size(); ++i) {
    elf.code[i] = static_cast<std::byte>(i * 7);
  }
  elf.programs[0].p_filesz = elf.code.size();
  for (unsigned left = input.Byte() % 6U; left > 0; --left) {
    AddProgram(input, plan);
  }
  for (unsigned left = input.Byte() % 5U; left > 0; --left) {
    AddNote(input, plan);
  }
  constexpr std::array<uint64_t, 4> kAlignments = {4, 8, 0, 1};
  elf.Layout();
  elf.programs[1].p_align = kAlignments[input.Byte() % kAlignments.size()];
  // Only 8 is another alignment, for which these notes are not made.
  plan.sound = plan.sound && elf.programs[1].p_align != 8;
  for (unsigned left = input.Byte() % 4U; left > 0; --left) {
    Damage(input, plan);
  }
  return plan;
}

bool TellsAnEntryInside(const Plan& plan) {
  return plan.entry && *plan.entry >= TestElf::kLoadAddress &&
         *plan.entry - TestElf::kLoadAddress < plan.elf.code.size();
}

// --- What is accepted is loaded ---

void CheckLoaded(const ElfKernel& kernel, std::span<const std::byte> file,
                 const mem::GuestMemory& memory) {
  for (const Segment& segment : kernel.segments) {
    std::vector<std::byte> loaded(segment.memory_size);
    WV_CHECK(memory.ReadBytes(Gpa{segment.address}, loaded).has_value());
    const auto bytes = file.subspan(segment.file_offset, segment.file_size);
    WV_CHECK(std::ranges::equal(std::span(loaded).first(bytes.size()), bytes));
    WV_CHECK(std::ranges::all_of(std::span(loaded).subspan(bytes.size()),
                                 [](std::byte byte) { return byte == std::byte{0}; }));
  }
}

// `shorter`: bytes that the file loses before it is loaded.
void Load(const ElfKernel& kernel, std::span<const std::byte> file, size_t shorter) {
  static const UniqueFd copy = *MakeMemfd("kernel", 0);
  std::vector<mem::RegionSpec> regions;
  regions.push_back({.start = Gpa{TestElf::kLoadAddress}, .size = kMemory});
  const auto memory = *mem::GuestMemory::Create(std::move(regions));
  WV_CHECK(::ftruncate(copy.get(), 0) == 0);
  WV_CHECK(::pwrite(copy.get(), file.data(), file.size(), 0) == static_cast<ssize_t>(file.size()));
  const auto source = FdSource::Create(copy);
  WV_CHECK(source.has_value());
  const auto again = ParseElf(*source, kMachineX86);
  WV_CHECK(again.has_value() && again->pvh_entry == kernel.pvh_entry);
  WV_CHECK(::ftruncate(copy.get(), static_cast<off_t>(file.size() - shorter)) == 0);
  const auto end = LoadSegments(kernel, copy, *memory, TestElf::kLoadAddress, kEnd);
  const bool fits = std::ranges::all_of(kernel.segments, [](const Segment& segment) {
    return segment.address >= TestElf::kLoadAddress && segment.address <= kEnd &&
           segment.memory_size <= kEnd - segment.address;
  });
  if (shorter == 0) {
    WV_CHECK(end.has_value() == fits);
  }
  if (end) {
    WV_CHECK(*end <= kEnd);
    CheckLoaded(kernel, file, *memory);
  }
}

void FuzzScript(FuzzInput& input) {
  const Plan plan = MakePlan(input);
  std::vector<std::byte> file = plan.elf.Build();
  const size_t shorter = input.Word() % (file.size() + 1);
  const bool later = (input.Byte() & 1U) != 0;
  if (!later) {
    file.resize(file.size() - shorter);
  }
  const auto kernel = Parse(file);
  if (plan.sound && (later || shorter == 0)) {
    WV_CHECK(kernel.has_value() == TellsAnEntryInside(plan));
    WV_CHECK(!kernel || kernel->pvh_entry == *plan.entry);
  }
  if (kernel) {
    Load(*kernel, file, later ? shorter : 0);
  }
}

// --- The start info ---

template <typename T>
T At(std::span<const std::byte> block, uint64_t offset) {
  T value;
  WV_CHECK(offset <= block.size() && sizeof(value) <= block.size() - offset);
  std::memcpy(&value, block.data() + offset, sizeof(value));
  return value;
}

// As a guest reads it (hvm_start_info of start_info.h).
void CheckStartInfo(std::span<const std::byte> block, const StartInfo& info, uint64_t address) {
  WV_CHECK(At<Le32>(block, 0) == 0x336ec578U && At<Le32>(block, 4) == 1U);
  WV_CHECK(At<Le32>(block, 12) == info.modules.size() && At<Le32>(block, 48) == info.memory.size());
  WV_CHECK(At<Le64>(block, 32) == info.rsdp);
  for (size_t i = 0; i < info.modules.size(); ++i) {
    const uint64_t at = At<Le64>(block, 16) - address + i * 32;
    WV_CHECK(At<Le64>(block, at) == info.modules[i].address);
    WV_CHECK(At<Le64>(block, at + 8) == info.modules[i].size);
  }
  for (size_t i = 0; i < info.memory.size(); ++i) {
    const uint64_t at = At<Le64>(block, 40) - address + i * 24;
    WV_CHECK(At<Le64>(block, at) == info.memory[i].start);
    WV_CHECK(At<Le64>(block, at + 8) == info.memory[i].size);
    WV_CHECK(At<Le32>(block, at + 16) == static_cast<uint32_t>(info.memory[i].kind));
  }
  const uint64_t text = At<Le64>(block, 24) - address;
  for (size_t i = 0; i <= info.command_line.size(); ++i) {
    WV_CHECK(At<char>(block, text + i) == info.command_line.c_str()[i]);
  }
}

void FuzzStartInfo(FuzzInput& input) {
  StartInfo info;
  info.command_line.assign(input.Word() % (kMaxCommandLine + 16), 'c');
  if (const uint8_t zero = input.Byte(); zero != 0 && zero < info.command_line.size()) {
    info.command_line[zero] = '\0';
  }
  const unsigned ranges = input.Byte() % 8U;
  const unsigned modules = input.Byte() % 4U;
  const uint64_t address = input.Word64() & ~uint64_t{7};
  for (unsigned i = 0; i < ranges; ++i) {
    info.memory.push_back({.start = input.Word64(), .size = address, .kind = MemoryKind::kAcpi});
  }
  for (unsigned i = 0; i < modules; ++i) {
    info.modules.push_back({.address = address, .size = input.Word64()});
  }
  info.rsdp = address;
  const auto block = BuildStartInfo(info, address);
  WV_CHECK(block.has_value() == (info.command_line.size() < kMaxCommandLine &&
                                 info.command_line.find('\0') == std::string::npos));
  if (block) {
    CheckStartInfo(*block, info, address);
  }
}

}  // namespace
}  // namespace wyvern::loader

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using wyvern::FuzzInput;
  if (size == 0) {
    return 0;
  }
  FuzzInput input(data + 1, size - 1);
  if ((data[0] & 1U) == 0) {
    (void)wyvern::loader::Parse(std::as_bytes(input.Take(size)));
    return 0;
  }
  wyvern::loader::FuzzScript(input);
  wyvern::loader::FuzzStartInfo(input);
  return 0;
}
