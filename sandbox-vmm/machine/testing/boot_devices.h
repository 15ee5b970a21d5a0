// machine/testing/boot_devices.h — the devices of wyvern-boot-test's machine. Their threads have the filters that they have in wyvern-vmm.
// Threads: the main one.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "balloon/balloon_device.h"
#include "base/error.h"
#include "machine/machine.h"
#include "machine/testing/boot_options.h"
#include "virtio_mem/mem_device.h"

namespace wyvern::machine {

class BootDevices {
 public:
  // The machine owns the devices and must outlive this.
  explicit BootDevices(Machine& machine) : machine_(machine) {}

  Result<> AttachAll(const BootOptions& options);

  // A line of standard input; the answer.
  std::string Command(std::string_view line);

  // A line for each device.
  std::string Counters() const;

 private:
  Result<> Attach(std::string name, std::unique_ptr<virtio::VirtioDevice> device);
  Result<> AttachDisks(const BootOptions& options);
  Result<> AttachImage(const std::string& path);
  Result<> AttachMemory(uint64_t mib);
  Result<> AttachTap(const std::string& name);
  Result<> AttachPorts(const std::vector<BootPort>& ports);

  Machine& machine_;
  std::vector<std::pair<std::string, const virtio::VirtioDevice*>> devices_;
  devices::BalloonDevice* balloon_ = nullptr;
  devices::MemDevice* memory_ = nullptr;
};

}  // namespace wyvern::machine
