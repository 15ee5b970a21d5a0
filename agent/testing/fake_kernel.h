// agent/testing/fake_kernel.h — a directory that stands for /sys, /proc and /dev of a guest, and does what the kernel does when it is
// written to: a rescan finds what was plugged, `remove` lets go of it.
// Threads: any; hooks run on the writer's.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/kernel_files.h"

namespace wyvern::agent {

class FakeKernel : public KernelFiles {
 public:
  // What a write to a file does and answers; without one the file's text is replaced.
  using Hook = std::function<Result<>(const std::string& value)>;

  struct Device {
    std::string address = "";           // as the guest numbers it
    std::string port = "";              // that it is behind; empty: bus 0
    std::string id = "0x0002";          // of the virtio bus
    std::string driver = "virtio_blk";  // that takes it by itself; empty: none
    // Makes what the driver makes, below the device's directory ("/sys/…/virtio3").
    std::function<void(FakeKernel&, const std::string& virtio)> nodes = nullptr;
  };

  FakeKernel();
  ~FakeKernel() override;

  void Put(const std::string& path, const std::string& text);
  void Link(const std::string& path, const std::string& target);
  void Delete(const std::string& path);
  void OnWrite(const std::string& path, Hook hook);
  // What was written to a file so far.
  std::vector<std::string> Writes(const std::string& path) const;

  void AddPort(const std::string& address, const std::string& bus);
  void AddDriver(const std::string& bus, const std::string& driver);
  // On the bus: the next rescan finds it. Off it: no rescan does, but what the kernel knows it keeps.
  void Plug(Device device);
  void Unplug(const std::string& address);
  // Number of functions that the kernel knows.
  size_t FunctionCount() const;

  // A disk with a serial, or whatever else `Device` can be.
  static Device Disk(const std::string& address, const std::string& name,
                     const std::string& serial);

  Result<> Write(const std::string& path, const std::string& value) const override;
  std::optional<uint64_t> VsockCid() const override;
  bool IsClaimed(const std::string& block_device) const override;

  void SetCid(std::optional<uint64_t> cid);
  void SetClaimed(const std::string& block_device, bool claimed);

 private:
  void Rescan();
  void Appear(const Device& device);
  void Bound(const std::string& name, const std::string& driver);

  mutable std::mutex mu_;
  std::map<std::string, Hook> hooks_;  // guarded by mu_, as is what follows
  mutable std::map<std::string, std::vector<std::string>> writes_;
  std::map<std::string, Device> plugged_;
  std::optional<uint64_t> cid_;
  std::set<std::string> claimed_;
  int next_virtio_ = 1;
};

}  // namespace wyvern::agent
