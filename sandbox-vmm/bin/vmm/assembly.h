// vmm/assembly.h — the real machine behind the API: devices are built here from donated descriptors and plugged in.
// Threads: the methods come from gRPC's threads and are serialised by one mutex, which nobody holds who waits for the guest.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "api/console_ring.h"
#include "api/virtual_machine.h"
#include "blk/uring_engine.h"
#include "jail/filter.h"
#include "machine/machine.h"
#include "mem/file_window.h"
#include "upcall/channel.h"
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
  Result<> Boot() override;
  Result<> ConnectVsock(uint32_t port, UniqueFd socket) override;
  void EndWaits() override;
  Result<> Pause() override;
  Result<> Resume() override;
  std::map<std::string, uint64_t> Metrics() override;
  void SetEventListener(std::function<void(api::MachineEvent)> listener) override;

 private:
  struct Device {
    virtio::VirtioDevice* device = nullptr;  // the machine owns it
    pci::Place place;
    bool changing = false;  // somebody waits for the guest to take it up, or to let go of it
    std::shared_ptr<mem::FileWindow> window;  // of a device that has one
    std::optional<arch::AddressRange> images;
  };

  Result<std::unique_ptr<virtio::VirtioDevice>> MakeDevice(const std::string& id,
                                                           api::DeviceSpec spec);
  Result<std::unique_ptr<virtio::VirtioDevice>> Make(const std::string& id, api::PmemSpec spec);
  Result<std::unique_ptr<virtio::VirtioDevice>> Make(const std::string& id, api::RngSpec spec);
  Result<std::unique_ptr<virtio::VirtioDevice>> Make(const std::string& id, api::VsockSpec spec);
  Result<std::unique_ptr<virtio::VirtioDevice>> Make(const std::string& id, api::BlkSpec spec);
  Result<std::unique_ptr<virtio::VirtioDevice>> Make(const std::string& id,
                                                     api::VhostUserFsSpec spec);
  size_t Windows() const;
  Result<std::shared_ptr<mem::FileWindow>> MakeWindow(const std::string& id, uint64_t size);
  static devices::WorkerOptions WorkerFor(const std::string& id);
  // hotplug.cc; mu_ is held by callers of the first three.
  Result<> CheckAttach(const std::string& id, const api::DeviceSpec& spec) const;
  Result<> Plug(const std::string& id, api::DeviceSpec spec);
  void Forget(const std::string& id);
  // Whether the guest has let go of the device. If not, it sees it further, and every request fails.
  enum class Consent : uint8_t { kGiven, kMissing };
  Result<> Unplug(const std::string& id, Consent consent);
  Result<api::AttachedDevice> TakenUp(const agent::v1::PciRescanRequest& request,
                                      upcall::Deadline deadline);
  // The guest has let go of what is there.
  Result<> LetGo(const std::string& address, bool force, upcall::Deadline deadline);

  // The answer to a stream's request, for who waits for it.
  class StreamAnswer;
  Result<> OpenStream(uint32_t port, UniqueFd socket, upcall::Deadline deadline);
  void OnMachineEvent(const machine::Event& event);
  void Publish(api::MachineEvent event);

  std::mutex mu_;  // guards what follows
  std::unique_ptr<api::ConsoleRingWriter> console_;
  std::unique_ptr<machine::Machine> machine_;
  std::map<std::string, Device> devices_;
  devices::VsockDevice* vsock_ = nullptr;  // one of them
  // Read by vCPU threads as they start.
  jail::ThreadKind vcpu_kind_ = jail::ThreadKind::kVcpu;
  std::vector<std::unique_ptr<devices::IoRing>> rings_;
  bool booted_ = false;
  bool ending_ = false;
  std::set<std::shared_ptr<StreamAnswer>> awaited_;

  upcall::Channel channel_;

  std::mutex listener_mu_;
  std::function<void(api::MachineEvent)> listener_;  // guarded by listener_mu_
};

}  // namespace wyvern::vmm
