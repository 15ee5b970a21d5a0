#include "fs/differential/host_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "fs/differential/host_mapping.h"

namespace wyvern::fs::differential {

namespace {

class AlignedBuffer {
 public:
  AlignedBuffer() : bytes_(static_cast<char*>(std::aligned_alloc(4096, kHostBufferBytes))) {}

  ~AlignedBuffer() { std::free(bytes_); }

  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  char* data() { return bytes_; }

 private:
  char* bytes_;
};

struct flock ToFlock(const LockRange& range) {
  struct flock lock {};

  lock.l_type = static_cast<short>(range.type);
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(range.start);
  lock.l_len = static_cast<off_t>(range.length);
  return lock;
}

}  // namespace

int HostError(long result) {
  return result < 0 ? errno : 0;
}

char* HostBuffer() {
  static thread_local AlignedBuffer buffer;
  return buffer.data();
}

std::string HostPath(int fd) {
  return fmt::format("/proc/self/fd/{}", fd);
}

int ReadHostAttributes(int fd, Attributes* out) {
  struct stat stat {};

  if (::fstatat(fd, "", &stat, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) {
    return errno;
  }
  *out = {stat.st_mode,
          static_cast<uint32_t>(stat.st_nlink),
          stat.st_uid,
          stat.st_gid,
          static_cast<uint32_t>(stat.st_blksize),
          static_cast<uint64_t>(stat.st_size),
          stat.st_ino,
          major(stat.st_rdev),
          minor(stat.st_rdev),
          {stat.st_atim.tv_sec, stat.st_atim.tv_nsec},
          {stat.st_mtim.tv_sec, stat.st_mtim.tv_nsec}};
  return 0;
}

int HostFile::Read(uint64_t offset, size_t length, std::string* out) {
  const ssize_t bytes = ::pread(fd(), HostBuffer(), length, static_cast<off_t>(offset));
  if (bytes < 0) {
    return errno;
  }
  out->assign(HostBuffer(), static_cast<size_t>(bytes));
  return 0;
}

int HostFile::Write(uint64_t offset, const std::string& data, size_t* written) {
  std::memcpy(HostBuffer(), data.data(), data.size());
  const ssize_t bytes = ::pwrite(fd(), HostBuffer(), data.size(), static_cast<off_t>(offset));
  *written = bytes < 0 ? 0 : static_cast<size_t>(bytes);
  return HostError(bytes);
}

int HostFile::Truncate(uint64_t size) {
  return HostError(::ftruncate(fd(), static_cast<off_t>(size)));
}

int HostFile::Allocate(uint32_t mode, uint64_t offset, uint64_t length) {
  return HostError(::fallocate(fd(), static_cast<int>(mode), static_cast<off_t>(offset),
                               static_cast<off_t>(length)));
}

int HostFile::Seek(uint32_t whence, uint64_t offset, uint64_t* out) {
  const off_t found = ::lseek(fd(), static_cast<off_t>(offset), static_cast<int>(whence));
  *out = found < 0 ? 0 : static_cast<uint64_t>(found);
  return HostError(found);
}

int HostFile::Map(const MapRange& range, MappingRef* out) {
  return HostMapping::Create(fd(), range, out);
}

int HostFile::CopyTo(File& to, uint64_t offset, uint64_t to_offset, uint64_t length,
                     uint64_t* done) {
  auto from_at = static_cast<off64_t>(offset);
  auto to_at = static_cast<off64_t>(to_offset);
  const ssize_t bytes =
      ::copy_file_range(fd(), &from_at, static_cast<HostFile&>(to).fd(), &to_at, length, 0);
  *done = bytes < 0 ? 0 : static_cast<uint64_t>(bytes);
  return HostError(bytes);
}

int HostFile::Sync() {
  return HostError(::fsync(fd()));
}

int HostFile::GetAttributes(Attributes* out) {
  return ReadHostAttributes(fd(), out);
}

int HostFile::SetLock(const LockRange& range) {
  struct flock lock = ToFlock(range);
  return HostError(::fcntl(fd(), range.of_the_file ? F_OFD_SETLK : F_SETLK, &lock));
}

int HostFile::GetLock(LockRange* range) {
  struct flock lock = ToFlock(*range);
  if (::fcntl(fd(), range->of_the_file ? F_OFD_GETLK : F_GETLK, &lock) != 0) {
    return errno;
  }
  range->type = static_cast<uint32_t>(lock.l_type);
  range->start = static_cast<uint64_t>(lock.l_start);
  range->length = static_cast<uint64_t>(lock.l_len);
  return 0;
}

int HostFile::Flock(uint32_t operation) {
  return HostError(::flock(fd(), static_cast<int>(operation) | LOCK_NB));
}

}  // namespace wyvern::fs::differential
