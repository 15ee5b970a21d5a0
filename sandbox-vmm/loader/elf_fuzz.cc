// The ELF parser on arbitrary bytes: what it accepts must hold its promises.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "loader/elf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;  // NOLINT(google-build-using-namespace): the whole file is one function
  const loader::MemorySource file(std::as_bytes(std::span(data, size)));
  const auto kernel = loader::ParseElf(file, loader::kMachineX86);
  if (!kernel) {
    WV_CHECK(!kernel.error().message().empty());
    return 0;
  }
  bool entry_inside = false;
  uint64_t last_end = 0;
  for (const loader::Segment& segment : kernel->segments) {
    WV_CHECK(segment.file_size <= segment.memory_size);
    WV_CHECK(segment.file_size <= size && segment.file_offset <= size - segment.file_size);
    WV_CHECK(segment.address >= last_end);
    last_end = segment.address + segment.memory_size;
    WV_CHECK(last_end >= segment.address);
    entry_inside = entry_inside || (kernel->pvh_entry >= segment.address &&
                                    kernel->pvh_entry - segment.address < segment.file_size);
  }
  WV_CHECK(entry_inside);
  return 0;
}
