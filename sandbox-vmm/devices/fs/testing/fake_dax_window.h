// fs/testing/fake_dax_window.h — a DAX window in this process' memory, where a test can look.
// Threads: as DaxWindow.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <string>

#include "base/check.h"
#include "fs/dax_window.h"

namespace wyvern::fs::testing {

class FakeDaxWindow final : public DaxWindow {
 public:
  explicit FakeDaxWindow(uint64_t size) : size_(size), base_(Reserve(nullptr, size)) {}

  ~FakeDaxWindow() override { ::munmap(base_, size_); }

  FakeDaxWindow(const FakeDaxWindow&) = delete;
  FakeDaxWindow& operator=(const FakeDaxWindow&) = delete;

  uint64_t size() const override { return size_; }

  Result<> Map(FdRef file, uint64_t file_offset, uint64_t window_offset, uint64_t length,
               bool writable) override {
    WV_CHECK(length <= size_ && window_offset <= size_ - length);
    if (refuse) {
      return Fail(Code::kUnavailable, "the window refuses");
    }
    const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void* at = ::mmap(base_ + window_offset, length, protection, MAP_SHARED | MAP_FIXED, file.get(),
                      static_cast<off_t>(file_offset));
    return at == MAP_FAILED ? Result<>(SysError("mmap")) : Result<>();
  }

  Result<> Unmap(uint64_t window_offset, uint64_t length) override {
    WV_CHECK(length <= size_ && window_offset <= size_ - length);
    ++unmaps;
    Reserve(base_ + window_offset, length);
    return {};
  }

  // What the guest would read there.
  std::string Look(uint64_t offset, size_t length) const { return {base_ + offset, length}; }

  void Put(uint64_t offset, const std::string& bytes) { bytes.copy(base_ + offset, bytes.size()); }

  bool refuse = false;
  int unmaps = 0;

 private:
  // Zeros, where nothing is mapped.
  static char* Reserve(void* at, uint64_t size) {
    void* base = ::mmap(
        at, size, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at == nullptr ? 0 : MAP_FIXED), -1, 0);
    WV_CHECK(base != MAP_FAILED);
    return static_cast<char*>(base);
  }

  const uint64_t size_;
  char* const base_;
};

}  // namespace wyvern::fs::testing
