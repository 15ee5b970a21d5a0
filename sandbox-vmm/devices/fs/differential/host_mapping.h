// fs/differential/host_mapping.h — mmap, touched by loads and stores; a page behind the file's end is
// told by its SIGBUS.
// Threads: one; the signal's action is the process'.
#pragma once

#include <cstddef>
#include <string>

#include "fs/differential/target.h"

namespace wyvern::fs::differential {

class HostMapping final : public Mapping {
 public:
  static int Create(int fd, const MapRange& range, MappingRef* out);
  ~HostMapping() override;
  HostMapping(const HostMapping&) = delete;
  HostMapping& operator=(const HostMapping&) = delete;

  int Look(std::string* out) override;
  int Store(uint64_t offset, const std::string& data, size_t* stored) override;
  int Sync() override;

 private:
  HostMapping(char* at, size_t length) : at_(at), length_(length) {}

  char* const at_;
  const size_t length_;
};

}  // namespace wyvern::fs::differential
