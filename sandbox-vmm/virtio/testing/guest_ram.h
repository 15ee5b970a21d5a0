// virtio/testing/guest_ram.h — guest memory for tests: a memfd, with a bump allocator over its
// first region.
#pragma once

#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "mem/guest_memory.h"

namespace wyvern::virtio::testing {

class GuestRam {
 public:
  static constexpr uint64_t kBase = 0x10000;

  // `size` bytes from kBase; aborts when the host has none.
  explicit GuestRam(uint64_t size = uint64_t{1} << 20);
  // Several regions; the allocator works in the first.
  explicit GuestRam(const std::vector<std::pair<mem::Gpa, uint64_t>>& regions);

  const std::shared_ptr<const mem::GuestMemory>& memory() const { return memory_; }

  mem::Gpa Allocate(uint64_t length, uint64_t alignment = 16);

  // Everything allocated since `mark` may be handed out again.
  uint64_t Mark() const { return next_; }

  void Release(uint64_t mark) { next_ = mark; }

  mem::Gpa Put(std::string_view text);
  std::string Text(mem::Gpa from, uint64_t length) const;
  void Fill(mem::Gpa from, uint64_t length, std::byte value) const;

  template <typename T>
  void Write(mem::Gpa to, const T& value) const {
    Must(memory_->Write(to, value).has_value());
  }

  template <typename T>
  T Read(mem::Gpa from) const {
    auto value = memory_->Read<T>(from);
    Must(value.has_value());
    return *value;
  }

 private:
  static void Must(bool ok);
  std::shared_ptr<const mem::GuestMemory> memory_;
  uint64_t next_ = 0;
  uint64_t end_ = 0;
};

}  // namespace wyvern::virtio::testing
