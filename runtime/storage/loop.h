// storage/loop.h — a loop device over an image file, freed by the kernel when its last user goes.
#pragma once

#include <string>

#include "base/fd.h"

namespace wyvern::runtime {

class LoopDevice {
 public:
  // LO_FLAGS_AUTOCLEAR (and READ_ONLY). Keep the value until the device is mounted. NOT_FOUND: no such image.
  static Result<LoopDevice> Attach(const std::string& image, bool read_only);

  const std::string& path() const { return path_; }

 private:
  LoopDevice(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  UniqueFd fd_;
  std::string path_;
};

}  // namespace wyvern::runtime
