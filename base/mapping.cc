#include "base/mapping.h"

#include <sys/mman.h>

#include <utility>

namespace wyvern {

Result<Mapping> Mapping::Create(size_t size, int prot, int flags, FdRef fd, off_t offset) {
  void* address = mmap(nullptr, size, prot, flags, fd.get(), offset);
  if (address == MAP_FAILED) {
    return SysError("mmap of " + std::to_string(size) + " bytes");
  }
  Mapping mapping;
  mapping.data_ = static_cast<std::byte*>(address);
  mapping.size_ = size;
  return mapping;
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) {
    munmap(data_, size_);
  }
}

}  // namespace wyvern
