// machine/testing/boot_devices.h — the devices of wyvern-boot-test's machine. Their threads have the filters that they have in wyvern-vmm.
// Threads: the main one.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "balloon/balloon_device.h"
#include "base/error.h"
#include "blk/blk_device.h"
#include "console/console_device.h"
#include "machine/machine.h"
#include "machine/testing/boot_options.h"
#include "virtio_mem/mem_device.h"

namespace wyvern::machine {

inline constexpr uint64_t kMiB = uint64_t{1} << 20U;

// INTERNAL: a vCPU ran meanwhile.
Result<> PauseFor(Machine& machine, std::chrono::milliseconds time);

class BootDevices {
 public:
  // The machine owns the devices and must outlive this.
  explicit BootDevices(Machine& machine) : machine_(machine) {}

  Result<> AttachAll(const BootOptions& options);

  // A line of standard input; the answer. boot_commands.cc.
  std::string Command(std::string_view line);

  // A line for each device.
  std::string Counters() const;

 private:
  Result<> Attach(std::string name, std::unique_ptr<virtio::VirtioDevice> device);
  Result<> AttachDisks(const BootOptions& options);
  Result<> AttachImages(const std::vector<std::string>& paths);
  Result<> AttachMemory(uint64_t mib);
  Result<> AttachTap(const BootOptions& options);
  Result<> AttachPorts(const std::vector<BootPort>& ports);

  // Commands: what they print before their last line.
  using Numbers = std::span<const uint64_t>;
  Result<std::string> Perform(std::string_view name, std::string_view rest);
  Result<std::string> Type(std::string_view text);
  Result<std::string> Pause(Numbers numbers);
  Result<std::string> ResizeDisk(Numbers numbers);
  Result<std::string> SetBalloon(Numbers numbers);
  Result<std::string> Hint(Numbers numbers);
  Result<std::string> Stats(Numbers numbers);
  Result<std::string> Plug(Numbers numbers);
  Result<std::string> Window(Numbers numbers);
  Result<std::string> Link(Numbers numbers);
  Result<std::string> TellCounters(Numbers numbers);
  Result<std::string> StartVcpu(Numbers numbers);
  Result<std::string> StopVcpu(Numbers numbers);
  Result<std::string> TellVcpus(Numbers numbers);

  struct Disk {
    devices::BlkDevice* device = nullptr;
    std::string path;
  };

  Machine& machine_;
  bool split_ = false;
  std::vector<Disk> disks_;
  std::vector<std::pair<std::string, const virtio::VirtioDevice*>> devices_;
  devices::BalloonDevice* balloon_ = nullptr;
  devices::MemDevice* memory_ = nullptr;
  devices::ConsoleDevice* console_ = nullptr;
  std::function<void(bool)> set_link_up_;
};

}  // namespace wyvern::machine
