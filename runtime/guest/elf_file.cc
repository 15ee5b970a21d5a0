#include "guest/elf_file.h"

#include <elf.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <sstream>
#include <utility>

#include "base/endian.h"

namespace wyvern::guest {

namespace {

constexpr uint32_t kXenPhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr std::string_view kXen("Xen\0", 4);
constexpr std::string_view kBanner = "Linux version ";
constexpr size_t kMaxBannerRelease = 64;  // __NEW_UTS_LEN

bool Fits(uint64_t offset, uint64_t length, uint64_t size) {
  return length <= size && offset <= size - length;
}

template <typename T>
std::optional<T> ReadAt(std::string_view file, uint64_t offset) {
  if (!Fits(offset, sizeof(T), file.size())) {
    return std::nullopt;
  }
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(T));
  return value;
}

std::string_view Range(std::string_view file, uint64_t offset, uint64_t length) {
  return Fits(offset, length, file.size()) ? file.substr(offset, length) : std::string_view();
}

std::optional<Elf64_Ehdr> ReadHeader(std::string_view file) {
  auto header = ReadAt<Elf64_Ehdr>(file, 0);
  if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
      header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB) {
    return std::nullopt;
  }
  return header;
}

bool HasPvhNote(std::string_view notes, uint64_t alignment) {
  const auto padded = [alignment](uint64_t length) {
    return (length + alignment - 1) / alignment * alignment;
  };
  uint64_t at = 0;
  for (;;) {
    const auto header = ReadAt<Elf64_Nhdr>(notes, at);
    if (!header) {
      return false;
    }
    const uint64_t name_at = at + sizeof(Elf64_Nhdr);
    if (header->n_type == kXenPhys32Entry && Range(notes, name_at, header->n_namesz) == kXen) {
      return true;
    }
    at = name_at + padded(header->n_namesz) + padded(header->n_descsz);
  }
}

std::string_view FindSection(std::string_view file, const Elf64_Ehdr& header,
                             std::string_view wanted) {
  const auto section = [&](uint64_t index) -> std::optional<Elf64_Shdr> {
    if (header.e_shentsize != sizeof(Elf64_Shdr) ||
        !Fits(header.e_shoff, (index + 1) * sizeof(Elf64_Shdr), file.size())) {
      return std::nullopt;
    }
    return ReadAt<Elf64_Shdr>(file, header.e_shoff + index * sizeof(Elf64_Shdr));
  };
  const auto names = section(header.e_shstrndx);
  if (!names) {
    return {};
  }
  const std::string_view text = Range(file, names->sh_offset, names->sh_size);
  for (uint64_t i = 0; i < header.e_shnum; ++i) {
    const auto found = section(i);
    if (found && found->sh_name < text.size() && text.substr(found->sh_name).starts_with(wanted) &&
        text.substr(found->sh_name + wanted.size()).starts_with('\0')) {
      return Range(file, found->sh_offset, found->sh_size);
    }
  }
  return {};
}

std::vector<std::string> Split(std::string_view text, char separator) {
  std::vector<std::string> words;
  std::istringstream stream{std::string(text)};
  for (std::string word; std::getline(stream, word, separator);) {
    if (!word.empty()) {
      words.push_back(std::move(word));
    }
  }
  return words;
}

// "pre: a b post: c" → a, b.
std::vector<std::string> Before(std::string_view softdep) {
  std::vector<std::string> before;
  bool pre = false;
  for (std::string& word : Split(softdep, ' ')) {
    if (word.ends_with(':')) {
      pre = word == "pre:";
    } else if (pre) {
      before.push_back(std::move(word));
    }
  }
  return before;
}

}  // namespace

bool IsElf(std::string_view file) {
  return file.starts_with(ELFMAG);
}

Result<> CheckKernelElf(std::string_view file) {
  const auto header = ReadHeader(file);
  if (!header || header->e_machine != EM_X86_64) {
    return Fail(Code::kInvalidArgument, "it is not a kernel for 64-bit x86");
  }
  for (uint64_t i = 0; i < header->e_phnum; ++i) {
    const auto program = ReadAt<Elf64_Phdr>(file, header->e_phoff + i * sizeof(Elf64_Phdr));
    if (!program) {
      return Fail(Code::kInvalidArgument, "it is a damaged ELF file: its headers are cut short");
    }
    if (!Fits(program->p_offset, program->p_filesz, file.size())) {
      return Fail(Code::kInvalidArgument, "it is a damaged ELF file: a segment is cut short");
    }
    if (program->p_type == PT_NOTE && HasPvhNote(Range(file, program->p_offset, program->p_filesz),
                                                 program->p_align == 8 ? 8 : 4)) {
      return {};
    }
  }
  return Fail(Code::kInvalidArgument,
              "it has no PVH entry, by which Wyvern starts kernels: take one that was built with "
              "CONFIG_PVH=y (Debian's linux-image-amd64 and linux-image-cloud-amd64 are)");
}

std::string KernelRelease(std::string_view file) {
  for (size_t at = file.find(kBanner); at != std::string_view::npos;
       at = file.find(kBanner, at + 1)) {
    const std::string_view rest = file.substr(at + kBanner.size(), kMaxBannerRelease + 1);
    const size_t end = rest.find(' ');
    if (end != std::string_view::npos && rest[0] >= '0' && rest[0] <= '9') {
      return std::string(rest.substr(0, end));
    }
  }
  return {};
}

Result<ModuleInfo> ReadModuleInfo(std::string_view file) {
  const auto header = ReadHeader(file);
  if (!header || header->e_type != ET_REL) {
    return Fail(Code::kDataLoss, "not a kernel module");
  }
  ModuleInfo info;
  for (const std::string& line : Split(FindSection(file, *header, ".modinfo"), '\0')) {
    const std::string_view text = line;
    if (text.starts_with("depends=")) {
      info.depends = Split(text.substr(8), ',');
    } else if (text.starts_with("softdep=")) {
      for (std::string& word : Before(text.substr(8))) {
        info.wishes.push_back(std::move(word));
      }
    } else if (text.starts_with("vermagic=")) {
      info.release = text.substr(9, text.find(' ') - 9);
    }
  }
  if (info.release.empty()) {
    return Fail(Code::kDataLoss, "a kernel module that does not say what it is (no vermagic)");
  }
  return info;
}

}  // namespace wyvern::guest
