// fs/differential/fuse_mapping.h — a mapping of a FuseFile: what a guest's kernel asks for when its
// pages are touched.
// Shape:   a page that is read is asked for, one that is written through a shared mapping is written
//          back at once (Linux may do so at any time), one of a private mapping is kept.
// Threads: one.
#pragma once

#include <map>
#include <string>

#include "fs/differential/fuse_file.h"

namespace wyvern::fs::differential {

class FuseMapping final : public Mapping {
 public:
  FuseMapping(FuseFile& file, const MapRange& range) : file_(file), range_(range) {}

  int Look(std::string* out) override;
  int Store(uint64_t offset, const std::string& data, size_t* stored) override;
  int Sync() override;

 private:
  // The file's size; forgets the private pages behind it.
  int Size(uint64_t* out);
  int StoreInPage(uint64_t page, size_t at, std::string_view data, uint64_t size);

  FuseFile& file_;
  const MapRange range_;
  std::map<uint64_t, std::string> own_;  // of a private mapping, by offset in the file
};

}  // namespace wyvern::fs::differential
