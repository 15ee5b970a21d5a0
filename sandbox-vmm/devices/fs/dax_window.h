// fs/dax_window.h — the DAX window as the file server sees it: a range of guest physical memory in
// which parts of files can be mapped.
// Spec:    VIRTIO 1.4 §5.11.6.4 (shared-memory region 0).
// Units:   bytes; offsets and lengths of the window are multiples of 4096.
// Errors:  a mapping that is refused is the guest's EIO. What was mapped there before is then
//          undefined, but nothing of another file than these two.
// Threads: one call at a time.
// Trust:   the caller has checked every range against size().
// Limits:  nothing is known of a file's end: pages beyond it, also after somebody shortened the
//          file, fault when they are touched. Who implements this keeps such a fault inside one
//          virtual machine.
#pragma once

#include <cstdint>

#include "base/fd.h"

namespace wyvern::fs {

class DaxWindow {
 public:
  virtual ~DaxWindow() = default;

  // A multiple of 2 MiB; constant.
  virtual uint64_t size() const = 0;
  // Maps [file_offset, + length) of `file` at window_offset and replaces what is mapped there (the
  // guest turns a read-only mapping in use into a writable one by mapping it again: at no time may
  // something else show, but for nothing at all). `file` is open for what the mapping may do, and is
  // the caller's. A range of 2 MiB may be replaced as a whole.
  virtual Result<> Map(FdRef file, uint64_t file_offset, uint64_t window_offset, uint64_t length,
                       bool writable) = 0;
  // Afterwards the range holds nothing of any file. Parts that are not mapped are left alone.
  virtual Result<> Unmap(uint64_t window_offset, uint64_t length) = 0;
};

}  // namespace wyvern::fs
