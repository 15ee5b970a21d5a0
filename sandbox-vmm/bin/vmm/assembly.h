// vmm/assembly.h — the real machine behind the API: devices are built here from donated descriptors, and come and go by hotplug/device_set.h.
// Threads: the methods come from gRPC's threads. Nobody who waits for the guest holds a lock that another method needs.
//          Lock order: those of devices_, then mu_.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "api/console_ring.h"
#include "api/virtual_machine.h"
#include "blk/uring_engine.h"
#include "hotplug/device_set.h"
#include "hotplug/turn.h"
#include "hotplug/vcpu_set.h"
#include "jail/filter.h"
#include "machine/machine.h"
#include "mem/file_window.h"
#include "pci/place.h"
#include "upcall/session.h"
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
  Result<api::AttachedDevice> Attach(const std::string& id, api::DeviceSpec spec,
                                     std::chrono::milliseconds patience) override;
  Result<> Detach(const api::DetachOptions& options) override;
  Result<> ResizeDisk(const std::string& id) override;
  Result<> Boot() override;
  Result<> ConnectVsock(uint32_t port, UniqueFd socket) override;
  Result<api::ResizedVcpus> ResizeVcpus(uint32_t vcpus,
                                        std::chrono::milliseconds patience) override;
  Result<api::ResizedMemory> ResizeMemory(uint64_t bytes,
                                          std::chrono::milliseconds patience) override;
  Result<api::MachineSize> Size() override;
  void EndWaits() override;
  Result<> Pause() override;
  Result<> Resume() override;
  api::MachineMetrics Metrics() override;
  void SetEventListener(std::function<void(api::MachineEvent)> listener) override;

 private:
  // The machine as a place for devices.
  class MachineBus final : public hotplug::Bus {
   public:
    explicit MachineBus(Assembly& owner) : owner_(owner) {}

    Result<std::string> Add(std::unique_ptr<virtio::VirtioDevice> device,
                            std::shared_ptr<mem::FileWindow> window) override;
    Result<> Remove(const std::string& address) override;
    Result<> Abandon(const std::string& address) override;

   private:
    Result<pci::Place> PlaceOf(const std::string& address) const;

    Assembly& owner_;
    std::map<std::string, pci::Place> places_;  // one thread at a time
  };

  // The machine's virtio-mem device, as long as it is there.
  class MemDeviceSize;

  class MachineVcpus final : public hotplug::VcpuThreadSwitch {
   public:
    explicit MachineVcpus(Assembly& owner) : owner_(owner) {}

    Result<> Start(uint32_t id) override { return owner_.machine_->StartVcpu(id); }

    Result<> Stop(uint32_t id) override { return owner_.machine_->StopVcpu(id); }

   private:
    Assembly& owner_;
  };

  // The answer to a stream's request, for who waits for it.
  class StreamAnswer;

  // device_making.cc; called by one thread at a time, without mu_.
  Result<hotplug::NewDevice> Make(const std::string& id, api::PmemSpec spec);
  Result<hotplug::NewDevice> Make(const std::string& id, api::RngSpec spec);
  Result<hotplug::NewDevice> Make(const std::string& id, api::VsockSpec spec);
  Result<hotplug::NewDevice> Make(const std::string& id, api::BlkSpec spec);
  Result<hotplug::NewDevice> Make(const std::string& id, api::VhostUserFsSpec spec);
  Result<hotplug::NewDevice> Make(const std::string& id, api::NetSpec spec);
  Result<hotplug::NewDevice> Make(const std::string& id, api::VhostUserNetSpec spec);
  Result<hotplug::NewDevice> Make(const std::string& id, api::BalloonSpec spec);
  Result<hotplug::NewDevice> Make(const std::string& id, api::MemSpec spec);
  Result<hotplug::NewDevice> Make(const std::string& id, api::ConsoleSpec spec);
  Result<std::shared_ptr<mem::FileWindow>> MakeWindow(const std::string& id, uint64_t size);

  Result<> CheckAttach(const api::DeviceSpec& spec);
  Result<upcall::ChannelKind> OpenUpcall(UniqueFd socket, std::function<void(Result<>)> connected);
  // FAILED_PRECONDITION: there is no way to the guest's agent.
  Result<> CheckUpcall() const;
  void OnMachineEvent(const machine::Event& event);
  void Publish(api::MachineEvent event);
  // News, of what was tried while the guest runs.
  void TellFailure(const std::string& what, const Error& error);

  std::mutex mu_;  // guards what follows; the machine itself is made once
  std::unique_ptr<api::ConsoleRingWriter> console_;
  std::unique_ptr<machine::Machine> machine_;
  // Read by vCPU threads as they start.
  jail::ThreadKind vcpu_kind_ = jail::ThreadKind::kVcpu;
  // Of which no device has one; no other can be made after the filters.
  std::vector<std::shared_ptr<devices::IoRing>> rings_;
  std::set<std::string> windows_;  // ids of devices with one
  bool booted_ = false;
  bool paused_ = false;
  bool ending_ = false;
  std::set<std::shared_ptr<StreamAnswer>> awaited_;

  upcall::Session upcall_;
  MachineBus bus_{*this};
  hotplug::DeviceSet devices_{bus_, upcall_};

  MachineVcpus vcpu_threads_{*this};
  std::unique_ptr<hotplug::VcpuSet> vcpus_;  // set with the machine
  hotplug::Turn resize_;                     // held by who resizes memory; before all others
  uint64_t boot_memory_ = 0;                 // set with the machine
  bool keeps_ram_ = false;                   // of fixed huge pages; the same
  // Of the console device with the VMM's own port. Set when that is made, before it can be used.
  std::atomic<uint32_t> upcall_port_{0};

  std::mutex listener_mu_;
  std::function<void(api::MachineEvent)> listener_;  // guarded by listener_mu_
};

}  // namespace wyvern::vmm
