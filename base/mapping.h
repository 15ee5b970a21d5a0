// base/mapping.h — mmap(2) as an owned value.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/fd.h"

namespace wyvern {

class Mapping {
 public:
  Mapping() = default;
  // mmap(nullptr, size, prot, flags, fd, offset); `fd` may be FdRef(-1) with MAP_ANONYMOUS.
  static Result<Mapping> Create(size_t size, int prot, int flags, FdRef fd, off_t offset = 0);

  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  std::byte* data() const { return data_; }

  size_t size() const { return size_; }

  // True when [offset, offset + length) lies inside; no overflow.
  bool Contains(uint64_t offset, uint64_t length) const {
    return length <= size_ && offset <= size_ - length;
  }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace wyvern
