// agent/kernel_files.h — what the kernel shows and takes in /sys, /proc and /dev, for the hot-plug of devices, CPUs and memory.
// Shape:   paths are absolute ("/sys/…"); `root` goes in front of them. Virtual is what a test's directory cannot do: react.
// Errors:  what is not there, or cannot be read, is empty or nothing: sysfs may take a file away at any time.
// Threads: any; nothing is kept. Each call may block for as long as the kernel holds a lock or a device does not answer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace wyvern::agent {

// "/sys/bus/x" → "x"
std::string BaseName(const std::string& path);

class KernelFiles {
 public:
  explicit KernelFiles(std::string root = "") : root_(std::move(root)) {}

  virtual ~KernelFiles() = default;
  KernelFiles(const KernelFiles&) = delete;
  KernelFiles& operator=(const KernelFiles&) = delete;

  bool Exists(const std::string& path) const;
  // A small file, without the newline at its end.
  std::optional<std::string> Read(const std::string& path) const;
  // Names in a directory, sorted; none when it is not there.
  std::vector<std::string> List(const std::string& path) const;
  // The last part of a symbolic link's target: a device's driver.
  std::string LinkName(const std::string& path) const;

  // One write(2), as sysfs has it: the errno is the kernel's answer, EINTR too (a signal is how the offlining of memory is ended).
  virtual Result<> Write(const std::string& path, const std::string& value) const;
  // The CID of this machine, by the vsock device that the kernel drives; nothing without one.
  virtual std::optional<uint64_t> VsockCid() const;
  // True when the block device is mounted, or held by another driver, in any namespace.
  virtual bool IsClaimed(const std::string& block_device) const;

  std::string At(const std::string& path) const { return root_ + path; }

 private:
  const std::string root_;
};

}  // namespace wyvern::agent
