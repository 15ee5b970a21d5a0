// guest/testing/images.h — small kernels, modules and EROFS images for tests, each field open to damage.
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <elf.h>

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/endian.h"

namespace wyvern::guest::testing {

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
void Put(std::string& file, size_t offset, const T& value) {
  file.replace(offset, sizeof(value), Bytes(value));
}

// `filter`: ARCHIVE_FILTER_*.
inline std::string Compress(std::string_view data, int filter) {
  std::string out(data.size() + (1U << 16U), '\0');
  size_t used = 0;
  archive* writer = archive_write_new();
  archive_write_set_format_raw(writer);
  archive_write_add_filter(writer, filter);
  archive_write_set_bytes_in_last_block(writer, 1);
  archive_write_open_memory(writer, out.data(), out.size(), &used);
  archive_entry* entry = archive_entry_new();
  archive_entry_set_filetype(entry, AE_IFREG);
  archive_write_header(writer, entry);
  archive_write_data(writer, data.data(), data.size());
  archive_write_close(writer);
  archive_entry_free(entry);
  archive_write_free(writer);
  out.resize(used);
  return out;
}

inline Elf64_Ehdr ElfHeader(uint16_t type) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = type;
  header.e_machine = EM_X86_64;
  return header;
}

// An ELF with one PT_NOTE (Xen note of `note_type`; 18 is the PVH entry) and a banner of `release`.
inline std::string MakeKernel(const std::string& release, uint32_t note_type = 18) {
  Elf64_Ehdr header = ElfHeader(ET_EXEC);
  header.e_phoff = sizeof(header);
  header.e_phnum = 1;
  header.e_phentsize = sizeof(Elf64_Phdr);
  Elf64_Phdr program{};
  program.p_type = PT_NOTE;
  program.p_align = 4;
  program.p_offset = sizeof(header) + sizeof(program);
  const std::string note = Bytes(Elf64_Nhdr{.n_namesz = 4, .n_descsz = 4, .n_type = note_type}) +
                           std::string("Xen\0\0\0\0\1", 8);
  program.p_filesz = note.size();
  return Bytes(header) + Bytes(program) + note + std::string(5000, '\x90') + "Linux version %s\n" +
         std::string(1, '\0') + "Linux version " + release + " (builder@host) #1 SMP\n";
}

// The offsets are those of boot.rst. `tail`: the size that follows the payload.
inline std::string MakeBzImage(const std::string& payload, uint32_t unpacked, bool tail,
                               const std::string& release = "6.1.0-test") {
  std::string file(size_t{5} * 512, '\0');
  file[0x1f1] = 4;
  file.replace(0x202, 4, "HdrS");
  Put(file, 0x206, Le16(0x20f));
  Put(file, 0x20e, Le16(0x400));
  const std::string banner = release + " (builder@host) #1 SMP";
  file.replace(0x600, banner.size(), banner);
  const std::string body = payload + (tail ? Bytes(Le32(unpacked)) : "");
  Put(file, 0x248, Le32(16));
  Put(file, 0x24c, Le32(static_cast<uint32_t>(body.size())));
  return file + std::string(16, 'x') + body + "after";
}

// A relocatable ELF whose .modinfo holds `lines`.
inline std::string MakeModule(const std::vector<std::string>& lines) {
  std::string info;
  for (const std::string& line : lines) {
    info += line + '\0';
  }
  const std::string names("\0.shstrtab\0.modinfo\0", 20);
  Elf64_Ehdr header = ElfHeader(ET_REL);
  header.e_shoff = sizeof(header) + names.size() + info.size();
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = 3;
  header.e_shstrndx = 1;
  Elf64_Shdr strings{};
  strings.sh_name = 1;
  strings.sh_offset = sizeof(header);
  strings.sh_size = names.size();
  Elf64_Shdr modinfo{};
  modinfo.sh_name = 11;
  modinfo.sh_offset = sizeof(header) + names.size();
  modinfo.sh_size = info.size();
  return Bytes(header) + names + info + Bytes(Elf64_Shdr{}) + Bytes(strings) + Bytes(modinfo);
}

// Blocks of 4096: super block and inodes in the first, then one block for each directory, then the file /sbin/wyvern-agent, whose
// last bytes are inline. Inode numbers: root 40, sbin 42, the file 44 (extended form).
inline std::string MakeErofs(const std::string& file) {
  constexpr size_t kBlock = 4096;
  std::string image(3 * kBlock, '\0');
  Put(image, 1024, Le32(0xe0f5e1e2));
  image[1024 + 12] = 12;
  Put(image, 1024 + 14, Le16(40));
  const auto compact = [&image](size_t nid, uint16_t mode, uint32_t size, uint32_t block) {
    Put(image, nid * 32 + 4, Le16(mode));
    Put(image, nid * 32 + 8, Le32(size));
    Put(image, nid * 32 + 16, Le32(block));
  };
  const auto directory = [&image](size_t block, const std::vector<std::string>& names,
                                  const std::vector<uint64_t>& nids) {
    size_t name_at = names.size() * 12;
    for (size_t i = 0; i < names.size(); ++i) {
      Put(image, block * kBlock + i * 12, Le64(nids[i]));
      Put(image, block * kBlock + i * 12 + 8, Le16(static_cast<uint16_t>(name_at)));
      image.replace(block * kBlock + name_at, names[i].size(), names[i]);
      name_at += names[i].size();
    }
    return static_cast<uint32_t>(name_at);
  };
  compact(40, 0040755, directory(1, {".", "..", "bin", "sbin"}, {40, 40, 42, 42}), 1);
  compact(42, 0040755, directory(2, {".", "..", "wyvern-agent"}, {42, 40, 44}), 2);
  constexpr size_t kInode = size_t{44} * 32;
  Put(image, kInode, Le16(1 | 2U << 1U));
  Put(image, kInode + 4, Le16(0100755));
  Put(image, kInode + 8, Le64(file.size()));
  Put(image, kInode + 16, Le32(3));
  const std::string tail = file.substr(file.size() / kBlock * kBlock);
  image.replace(kInode + 64, tail.size(), tail);
  return image + file.substr(0, file.size() - tail.size());
}

}  // namespace wyvern::guest::testing
