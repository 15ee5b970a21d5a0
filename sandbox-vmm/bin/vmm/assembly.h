// vmm/assembly.h — the real machine behind the API: devices are built here from donated descriptors and plugged in.
// Threads: the methods come from gRPC's threads and are serialised by one mutex, but ConnectVsock, which waits for the guest.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api/console_ring.h"
#include "api/virtual_machine.h"
#include "blk/uring_engine.h"
#include "jail/filter.h"
#include "machine/machine.h"
#include "mem/file_window.h"
#include "vsock/vsock_device.h"

namespace wyvern::vmm {

class Assembly final : public api::VirtualMachine {
 public:
  // Makes the io_uring rings: before the control filter, which refuses io_uring_setup.
  Assembly();
  ~Assembly() override;
  Assembly(const Assembly&) = delete;
  Assembly& operator=(const Assembly&) = delete;

  Result<> Create(api::MachineSpec spec) override;
  Result<std::string> Attach(const std::string& id, api::DeviceSpec spec) override;
  Result<> Boot() override;
  Result<> ConnectVsock(uint32_t port, UniqueFd socket) override;
  Result<> Pause() override;
  Result<> Resume() override;
  std::map<std::string, uint64_t> Metrics() override;
  void SetEventListener(std::function<void(api::MachineEvent)> listener) override;

 private:
  Result<std::unique_ptr<virtio::VirtioDevice>> MakeDevice(const std::string& id,
                                                           api::DeviceSpec spec);
  Result<std::unique_ptr<virtio::VirtioDevice>> Make(const std::string& id, api::PmemSpec spec);
  Result<std::unique_ptr<virtio::VirtioDevice>> Make(const std::string& id, api::RngSpec spec);
  Result<std::unique_ptr<virtio::VirtioDevice>> Make(const std::string& id, api::VsockSpec spec);
  Result<std::unique_ptr<virtio::VirtioDevice>> Make(const std::string& id, api::BlkSpec spec);
  Result<std::unique_ptr<virtio::VirtioDevice>> Make(const std::string& id,
                                                     api::VhostUserFsSpec spec);
  Result<std::shared_ptr<mem::FileWindow>> MakeWindow(const std::string& id, uint64_t size);
  // Makes the device and puts it into the machine: its PCI slot.
  Result<uint8_t> Plug(const std::string& id, api::DeviceSpec spec);
  void OnMachineEvent(const machine::Event& event);
  void Publish(api::MachineEvent event);

  std::mutex mu_;  // guards what follows
  std::unique_ptr<api::ConsoleRingWriter> console_;
  std::unique_ptr<machine::Machine> machine_;
  std::map<std::string, virtio::VirtioDevice*> devices_;             // the machine owns them
  devices::VsockDevice* vsock_ = nullptr;                            // one of them
  std::map<std::string, std::shared_ptr<mem::FileWindow>> windows_;  // of the devices that have one
  // Read by vCPU threads as they start, when no device is attached any more.
  jail::ThreadKind vcpu_kind_ = jail::ThreadKind::kVcpu;
  std::vector<std::unique_ptr<devices::IoRing>> rings_;
  bool booted_ = false;

  std::mutex listener_mu_;
  std::function<void(api::MachineEvent)> listener_;  // guarded by listener_mu_
};

}  // namespace wyvern::vmm
