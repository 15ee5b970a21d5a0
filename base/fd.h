// base/fd.h — file descriptors as owned and borrowed values, and the plain calls on them.
// Ownership:a by-value UniqueFd parameter takes the descriptor; FdRef borrows it for the call. Every
//          fd we make is close-on-exec.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace wyvern {

class UniqueFd {
 public:
  UniqueFd() = default;

  explicit UniqueFd(int fd) : fd_(fd) {}

  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}

  UniqueFd& operator=(UniqueFd&& other) noexcept {
    Reset(other.Release());
    return *this;
  }

  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;

  ~UniqueFd() { Reset(); }

  bool valid() const { return fd_ >= 0; }

  int get() const { return fd_; }

  // Gives the descriptor up without closing it.
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }

  // Closes what is held (EINTR and errors are ignored: the descriptor is gone either way on Linux).
  void Reset(int fd = -1);

  // dup with close-on-exec.
  Result<UniqueFd> Duplicate() const;

 private:
  int fd_ = -1;
};

// Borrowed: valid only while the owner lives. Implicit from UniqueFd on purpose.
class FdRef {
 public:
  FdRef(const UniqueFd& fd) : fd_(fd.get()) {}  // NOLINT(google-explicit-constructor): a borrow

  explicit FdRef(int fd) : fd_(fd) {}

  int get() const { return fd_; }

  bool valid() const { return fd_ >= 0; }

 private:
  int fd_;
};

// openat(2) with O_CLOEXEC added. The error names the path.
Result<UniqueFd> OpenAt(FdRef dir, const std::string& path, int flags, mode_t mode = 0);
Result<UniqueFd> Open(const std::string& path, int flags, mode_t mode = 0);

// Whole-buffer transfers: retry EINTR and short counts; block on blocking fds. ReadExact fails with
// OUT_OF_RANGE at an early end.
Result<> WriteAll(FdRef fd, std::span<const std::byte> data);
Result<> WriteAll(FdRef fd, std::string_view data);
Result<> ReadExact(FdRef fd, std::span<std::byte> data);
// One read(2), EINTR retried: 0 at the end of the file. EAGAIN is an error with sys_errno() EAGAIN.
Result<size_t> ReadSome(FdRef fd, std::span<std::byte> data);
// Reads to the end, at most `limit` bytes: more is RESOURCE_EXHAUSTED.
Result<std::string> ReadToEnd(FdRef fd, size_t limit);

// Small files (config, /proc, /sys, cgroup).
Result<std::string> ReadFile(const std::string& path, size_t limit = 4 << 20);
Result<> WriteFile(const std::string& path, std::string_view data);
// Writes a temporary file beside `path`, fsyncs it, renames it over: a reader sees the old or the
// new content.
Result<> WriteFileAtomically(const std::string& path, std::string_view data, mode_t mode);

Result<> SetNonBlocking(FdRef fd, bool on);
Result<struct stat> Fstat(FdRef fd);

struct PipePair {
  UniqueFd read;
  UniqueFd write;
};

// pipe2(O_CLOEXEC | flags)
Result<PipePair> MakePipe(int flags = 0);

// memfd_create(MFD_CLOEXEC | flags), already ftruncated to `size`.
Result<UniqueFd> MakeMemfd(const char* name, uint64_t size, unsigned flags = 0);

}  // namespace wyvern
