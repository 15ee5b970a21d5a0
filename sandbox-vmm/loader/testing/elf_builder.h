// loader/testing/elf_builder.h — small ELF files for tests, each field open to damage.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace wyvern::loader::testing {

// Header, one PT_LOAD (code), one PT_NOTE (PVH entry), then their bytes.
struct TestElf {
  static constexpr uint64_t kLoadAddress = 0x1000000;

  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> programs;
  std::vector<std::byte> code = std::vector<std::byte>(0x200, std::byte{0xf4});
  std::vector<std::byte> notes;

  TestElf() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phoff = sizeof(Elf64_Ehdr);
    AddNote("Xen", 18, std::as_bytes(std::span(&entry_, 1)));
    programs.resize(2);
    programs[0].p_type = PT_LOAD;
    programs[0].p_paddr = kLoadAddress;
    programs[0].p_filesz = code.size();
    programs[0].p_memsz = 0x1000;
    programs[1].p_type = PT_NOTE;
    programs[1].p_align = 4;
    Layout();
  }

  // Places contents behind the program headers; call after changing sizes, before damaging fields.
  void Layout() {
    header.e_phnum = static_cast<uint16_t>(programs.size());
    const uint64_t end = sizeof(Elf64_Ehdr) + programs.size() * sizeof(Elf64_Phdr);
    programs[0].p_offset = end;
    programs[1].p_offset = end + code.size();
    programs[1].p_filesz = notes.size();
    programs[1].p_memsz = notes.size();
  }

  void AddNote(const char* name, uint32_t type, std::span<const std::byte> description) {
    const auto name_size = static_cast<uint32_t>(std::strlen(name) + 1);
    const auto words =
        std::vector<uint32_t>{name_size, static_cast<uint32_t>(description.size()), type};
    Append(std::as_bytes(std::span(words)));
    Append(std::as_bytes(std::span(name, name_size)));
    Append(description);
  }

  std::vector<std::byte> Build() const {
    std::vector<std::byte> out;
    const auto append = [&](std::span<const std::byte> bytes) {
      out.insert(out.end(), bytes.begin(), bytes.end());
    };
    append(std::as_bytes(std::span(&header, 1)));
    append(std::as_bytes(std::span(programs)));
    append(code);
    append(notes);
    return out;
  }

 private:
  // Padded to 4.
  void Append(std::span<const std::byte> bytes) {
    notes.insert(notes.end(), bytes.begin(), bytes.end());
    notes.resize((notes.size() + 3) / 4 * 4);
  }

  uint64_t entry_ = kLoadAddress + 0x10;
};

}  // namespace wyvern::loader::testing
