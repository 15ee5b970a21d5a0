#include "loader/pvh.h"

#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"

namespace wyvern::loader {

namespace {

constexpr uint32_t kMagic = 0x336ec578;  // XEN_HVM_START_MAGIC_VALUE

struct HvmStartInfo {
  Le32 magic;
  Le32 version;
  Le32 flags;
  Le32 module_count;
  Le64 modules;
  Le64 command_line;
  Le64 rsdp;
  Le64 memory_map;
  Le32 memory_map_entries;
  Le32 reserved;
};

static_assert(sizeof(HvmStartInfo) == 56);

struct HvmModule {
  Le64 address;
  Le64 size;
  Le64 command_line;
  Le64 reserved;
};

static_assert(sizeof(HvmModule) == 32);

struct HvmMemoryMapEntry {
  Le64 address;
  Le64 size;
  Le32 type;
  Le32 reserved;
};

static_assert(sizeof(HvmMemoryMapEntry) == 24);

template <typename T>
void Append(std::vector<std::byte>* out, const T& value) {
  const size_t at = out->size();
  out->resize(at + sizeof(value));
  std::memcpy(out->data() + at, &value, sizeof(value));
}

}  // namespace

Result<std::vector<std::byte>> BuildStartInfo(const StartInfo& info, uint64_t address) {
  if (info.command_line.size() >= kMaxCommandLine) {
    return Fail(Code::kInvalidArgument, fmt::format("kernel command line: {} bytes, at most {} fit",
                                                    info.command_line.size(), kMaxCommandLine - 1));
  }
  if (info.command_line.find('\0') != std::string::npos) {
    return Fail(Code::kInvalidArgument, "kernel command line: contains a NUL byte");
  }
  const uint64_t map_at = address + sizeof(HvmStartInfo);
  const uint64_t modules_at = map_at + info.memory.size() * sizeof(HvmMemoryMapEntry);
  const uint64_t command_line_at = modules_at + info.modules.size() * sizeof(HvmModule);

  HvmStartInfo start{};
  start.magic = kMagic;
  start.version = 1;
  start.module_count = static_cast<uint32_t>(info.modules.size());
  start.modules = info.modules.empty() ? 0 : modules_at;
  start.command_line = command_line_at;
  start.rsdp = info.rsdp;
  start.memory_map = map_at;
  start.memory_map_entries = static_cast<uint32_t>(info.memory.size());

  std::vector<std::byte> out;
  Append(&out, start);
  for (const MemoryRange& range : info.memory) {
    HvmMemoryMapEntry entry{};
    entry.address = range.start;
    entry.size = range.size;
    entry.type = static_cast<uint32_t>(range.kind);
    Append(&out, entry);
  }
  for (const BootModule& module : info.modules) {
    HvmModule entry{};
    entry.address = module.address;
    entry.size = module.size;
    Append(&out, entry);
  }
  const auto text = std::as_bytes(std::span(info.command_line));
  out.insert(out.end(), text.begin(), text.end());
  out.push_back(std::byte{0});
  return out;
}

}  // namespace wyvern::loader
