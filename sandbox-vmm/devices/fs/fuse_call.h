// fs/fuse_call.h — one FUSE request as it lies in guest memory: the header, arguments copied out
// once, and the space for the reply.
// Shape:   in: fuse_in_header, arguments, for WRITE the data. out: fuse_out_header, payload.
// Errors:  what the client wrote wrong is EINVAL or E2BIG to the client.
// Threads: one thread per call; a Scratch belongs to one worker thread.
// Trust:   every byte and length is the guest's and may change while we look: arguments are copied
//          first, then checked.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "fs/fuse_abi.h"

namespace wyvern::fs {

// The most argument bytes a request other than WRITE may carry: an xattr of 64 KiB, its name, two
// names, groups.
inline constexpr size_t kMaxArgumentBytes = 80 << 10;
// Negotiated max_write, and the most one READ returns: 256 pages.
inline constexpr uint32_t kMaxIoBytes = 1 << 20;
// The most a READDIR, GETXATTR or READLINK reply is built from at once.
inline constexpr size_t kMaxScratchReply = 128 << 10;

// Buffers of a worker thread, reused between calls; they grow to the limits above and no further.
struct Scratch {
  std::vector<std::byte> arguments;
  std::vector<std::byte> reply;
  std::vector<std::byte> entries;
  std::vector<iovec> data;
};

class FuseCall {
 public:
  // Nothing is answered when not even a header fits: the result is an error only to tell the caller
  // so.
  static FsResult<FuseCall> Parse(std::span<const iovec> in, std::span<const iovec> out,
                                  Scratch* scratch);

  const fuse_in_header& header() const { return header_; }

  Scratch& scratch() { return *scratch_; }

  // Copies all arguments (E2BIG: more than the limit). Must precede Take, TakeName and TakeGroups;
  // not for WRITE.
  FsResult<> LoadArguments();

  // The next sizeof(T) argument bytes; EINVAL if there are not so many.
  template <typename T>
  FsResult<T> Take() {
    static_assert(std::is_trivially_copyable_v<T>);
    if (remaining().size() < sizeof(T)) {
      return FsError(EINVAL);
    }
    T value;
    std::memcpy(&value, remaining().data(), sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  // The first `size` bytes of T, the rest zero (structures that grew:
  // FUSE_COMPAT_SETXATTR_IN_SIZE).
  template <typename T>
  FsResult<T> TakePrefix(size_t size) {
    T value{};
    if (remaining().size() < size || size > sizeof(T)) {
      return FsError(EINVAL);
    }
    std::memcpy(&value, remaining().data(), size);
    position_ += size;
    return value;
  }

  // A zero-terminated string of at most `limit` bytes (ENAMETOOLONG), not empty. The view lives as
  // long as the Scratch is untouched.
  FsResult<const char*> TakeString(size_t limit);
  // A name of one path component: no slash, not "." or "..".
  FsResult<const char*> TakeName();
  FsResult<std::span<const std::byte>> TakeBytes(size_t size);

  // What was not taken yet, less the extensions.
  std::span<const std::byte> remaining() const;

  // The group of FUSE_EXT_GROUPS among the extensions, if there is one.
  struct Groups {
    bool present = false;
    gid_t group = 0;
  };

  FsResult<Groups> FindGroups() const;

  // WRITE: the argument structure, then `size` bytes of data as iovecs of guest memory in
  // scratch().data.
  FsResult<fuse_write_in> LoadWrite();
  FsResult<> MapInput(size_t offset, size_t size);
  // READ: at most `size` bytes of reply space behind the out header, in scratch().data; the size
  // mapped.
  size_t MapOutput(size_t size);

  // Bytes of payload that fit.
  size_t reply_capacity() const {
    return out_length_ > sizeof(fuse_out_header) ? out_length_ - sizeof(fuse_out_header) : 0;
  }

  // Copies the payload to the guest and returns its length; EIO when it does not fit.
  FsResult<size_t> ReplyBytes(std::span<const std::byte> payload);

  template <typename T>
  FsResult<size_t> Reply(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return ReplyBytes(std::as_bytes(std::span(&value, 1)));
  }

  // Writes the out header for a finished call; returns the bytes of the chain that were written (0
  // if not even the header fits).
  uint32_t Finish(const FsResult<size_t>& result);

  // A lock that somebody else has, and that the guest wants to wait for: the call may be answered
  // later.
  void WaitForLock(const fuse_lk_in& args) { lock_wait_ = args; }

  const std::optional<fuse_lk_in>& lock_wait() const { return lock_wait_; }

 private:
  FuseCall() = default;

  fuse_in_header header_{};
  std::span<const iovec> in_;
  std::span<const iovec> out_;
  size_t in_length_ = 0;  // what header_.len says, checked
  size_t out_length_ = 0;
  size_t position_ = 0;  // in scratch_->arguments
  size_t argument_end_ = 0;
  Scratch* scratch_ = nullptr;
  std::optional<fuse_lk_in> lock_wait_;
};

// The answer to a request that has no payload or failed (a positive errno); what Finish writes.
uint32_t WriteAnswer(std::span<const iovec> out, uint64_t unique, int error);

// Sum of the lengths; saturates instead of wrapping.
size_t IovecLength(std::span<const iovec> parts);
// Copies between [offset, offset + bytes) of the list and a buffer; false if the list is shorter.
bool CopyFromIovecs(std::span<const iovec> from, size_t offset, std::span<std::byte> to);
bool CopyToIovecs(std::span<const iovec> to, size_t offset, std::span<const std::byte> from);
// Appends the part [offset, offset + length) of `from` to `out`, as far as the list reaches; the
// length appended.
size_t SliceIovecs(std::span<const iovec> from, size_t offset, size_t length,
                   std::vector<iovec>* out);

}  // namespace wyvern::fs
