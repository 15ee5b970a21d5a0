// Any bytes as a kernel and as a module.
#include "guest/elf_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern::guest;
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  (void)CheckKernelElf(file);
  (void)KernelRelease(file);
  (void)ReadModuleInfo(file);
  return 0;
}
