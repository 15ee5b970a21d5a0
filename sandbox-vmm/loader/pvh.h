// loader/pvh.h — what a PVH kernel finds at its entry: start info, memory map, modules, command line.
// Spec:    Xen public/arch-x86/hvm/start_info.h (version 1).
// Shape:   one block of guest memory: start info, memory map, one module entry, command line.
// Errors:  INVALID_ARGUMENT for a command line that is too long or holds a NUL.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "mem/guest_memory.h"

namespace wyvern::loader {

// E820 types.
enum class MemoryKind : uint32_t { kRam = 1, kReserved = 2, kAcpi = 3 };

struct MemoryRange {
  uint64_t start = 0;
  uint64_t size = 0;
  MemoryKind kind = MemoryKind::kRam;
};

struct BootModule {
  uint64_t address = 0;
  uint64_t size = 0;
};

// Linux COMMAND_LINE_SIZE on x86, with its NUL.
constexpr size_t kMaxCommandLine = 2048;

struct StartInfo {
  std::string command_line;
  std::vector<MemoryRange> memory;
  std::vector<BootModule> modules;  // the initrd
  uint64_t rsdp = 0;
};

// The block to be put at `address` (8-aligned); its first bytes are the hvm_start_info that ebx points to.
Result<std::vector<std::byte>> BuildStartInfo(const StartInfo& info, uint64_t address);

}  // namespace wyvern::loader
