// fs/differential/host_file.h — an open file of a HostTarget, by system calls, and what the target
// shares with it.
// Threads: one.
#pragma once

#include <string>
#include <utility>

#include "base/fd.h"
#include "fs/differential/target.h"

namespace wyvern::fs::differential {

// errno of a call that gave less than 0, else 0.
int HostError(long result);

// Memory that O_DIRECT takes; the calling thread's.
inline constexpr size_t kHostBufferBytes = 2 << 20;
char* HostBuffer();

// Leads to the very inode, whatever its type.
std::string HostPath(int fd);
int ReadHostAttributes(int fd, Attributes* out);

class HostFile final : public File {
 public:
  explicit HostFile(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }

  int Read(uint64_t offset, size_t length, std::string* out) override;
  int Write(uint64_t offset, const std::string& data, size_t* written) override;
  int Truncate(uint64_t size) override;
  int Allocate(uint32_t mode, uint64_t offset, uint64_t length) override;
  int Seek(uint32_t whence, uint64_t offset, uint64_t* out) override;
  int Map(const MapRange& range, MappingRef* out) override;
  int CopyTo(File& to, uint64_t offset, uint64_t to_offset, uint64_t length,
             uint64_t* done) override;
  int Sync() override;
  int GetAttributes(Attributes* out) override;
  int SetLock(const LockRange& range) override;
  int GetLock(LockRange* range) override;
  int Flock(uint32_t operation) override;

 private:
  UniqueFd fd_;
};

}  // namespace wyvern::fs::differential
