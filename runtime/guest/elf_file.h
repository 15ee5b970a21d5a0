// guest/elf_file.h — what an import must know of ELF files: can a kernel be started, what does a module say of itself.
// Spec:    System V gABI (ELF64, little-endian); Xen public/elfnote.h (XEN_ELFNOTE_PHYS32_ENTRY); Linux .modinfo: "key=value" strings.
// Errors:  INVALID_ARGUMENT says what is wrong and what would be accepted; DATA_LOSS: a module is damaged.
// Trust:   every byte is hostile: sums are overflow-checked, nothing is read outside of the file.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace wyvern::guest {

bool IsElf(std::string_view file);

// An x86-64 kernel with an entry for PVH, the only one that the VMM uses.
Result<> CheckKernelElf(std::string_view file);

// "6.1.0-50-cloud-amd64", from the banner in an unpacked kernel; empty: not found.
std::string KernelRelease(std::string_view file);

struct ModuleInfo {
  std::string release;               // the kernel that it was built for
  std::vector<std::string> depends;  // must be loaded before it
  std::vector<std::string> wishes;  // should be loaded before it, where they exist (softdep "pre:")
};

Result<ModuleInfo> ReadModuleInfo(std::string_view file);

}  // namespace wyvern::guest
