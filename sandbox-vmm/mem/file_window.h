// mem/file_window.h — a range of host addresses in which parts of files come and go: what a guest
// sees of a device's shared memory (virtio-fs: the DAX window).
// Shape:   reserved as a whole, 2 MiB aligned; what no file has is inaccessible. No GuestMemory has
//          it: what a driver names in there is outside the guest's memory for every device, and no
//          thread of this process reads or writes it. So a page that a file has lost (somebody cut
//          it short) is no SIGBUS of ours: KVM meets it, and KVM_RUN says EFAULT.
// Units:   bytes; offsets and lengths are multiples of 4096.
// Errors:  INVALID_ARGUMENT: a range outside the window; what is no regular file, or one of huge
//          pages. Else mmap's: the file is not open for it (EACCES), its file system has no mmap.
//          The window is then as before. A range of the window is never without an owner: where the
//          kernel has no memory for that, the process ends.
// Threads: any; calls for one range one at a time.
// Trust:   every number and descriptor may be another process'.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "base/fd.h"
#include "base/mapping.h"

namespace wyvern::mem {

class FileWindow {
 public:
  // A multiple of 2 MiB.
  static Result<std::shared_ptr<FileWindow>> Create(uint64_t size);
  ~FileWindow() = default;
  FileWindow(const FileWindow&) = delete;
  FileWindow& operator=(const FileWindow&) = delete;

  uint64_t size() const { return size_; }

  // For KVM_SET_USER_MEMORY_REGION only.
  uint64_t host_address() const { return reinterpret_cast<uintptr_t>(base_); }

  // [offset, offset + length) shows `file` from `file_offset` on, shared with everybody who has the
  // file, instead of what was there.
  Result<> Map(uint64_t offset, uint64_t length, FdRef file, uint64_t file_offset, bool writable);
  // Nothing is there.
  Result<> Unmap(uint64_t offset, uint64_t length);

 private:
  FileWindow(Mapping reservation, std::byte* base, uint64_t size)
      : reservation_(std::move(reservation)), base_(base), size_(size) {}

  Result<> CheckRange(uint64_t offset, uint64_t length) const;

  const Mapping reservation_;  // takes the window's mappings with it
  std::byte* const base_;
  const uint64_t size_;
};

}  // namespace wyvern::mem
