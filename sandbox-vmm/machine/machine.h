// machine/machine.h — a virtual machine: memory, platform, PCI devices, vCPU threads.
// State:   Create → attach devices, map images → Boot → Pause/Resume → the guest ends or Stop.
// Errors:  Error for the environment. What the guest does is an event or a counter.
// Threads: one control thread calls the methods; events and console bytes come from vCPU threads. Memory is plugged on the worker of the
//          device that does it.
// Trust:   kernel and initrd are hostile files; everything on the buses is the guest's.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arch/platform.h"
#include "base/error.h"
#include "base/fd.h"
#include "bus/bus.h"
#include "kvm/kvm.h"
#include "machine/vcpu_thread.h"
#include "machine/window_slot.h"
#include "mem/file_window.h"
#include "mem/guest_memory.h"
#include "pci/pci_bus.h"
#include "transport/pci_transport.h"
#include "virtio/device.h"
#include "virtio_mem/chunked_backing.h"
#include "worker/device_worker.h"

namespace wyvern::machine {

enum class EventKind : uint8_t {
  kPowerOff,  // the guest powered itself off; it runs no more
  kReset,     // the guest asked for a reset; it runs no more
  kFault,     // a vCPU cannot go on; the text says why, with registers; it runs no more
  kPanicked,  // the guest's kernel panicked; it may still reset itself
};

const char* EventName(EventKind kind);

struct Event {
  EventKind kind = EventKind::kFault;
  std::string text;
};

constexpr uint32_t kMaxVcpus = 32;

struct MachineConfig {
  UniqueFd kvm;        // an open /dev/kvm
  uint32_t vcpus = 1;  // run at boot; the guest must not start others by itself (Linux: maxcpus=)
  uint32_t max_vcpus =
      0;  // that it may have: all are in its tables and in KVM from the start; 0: as many as `vcpus`
  uint64_t memory = 256 << 20U;  // bytes, a multiple of 2 MiB
  bool shared_memory = false;    // memfd, for vhost-user back-ends
  // What backs `memory`, which is whole pages of it; memory that is plugged, too, where its blocks are whole pages, else transparent ones.
  // Pages of a fixed size make all memory shared.
  mem::RamPages ram_pages = mem::RamPages::kTransparent;
  uint64_t hotplug_memory = 0;  // bytes that a virtio-mem device may plug, a multiple of 2 MiB
  UniqueFd kernel;              // ELF with PVH entry
  UniqueFd initrd;              // invalid: none
  std::string command_line;
  // Console output; vCPU threads; must not block.
  std::function<void(std::span<const std::byte>)> console;
  // At most one ending event (all but kPanicked). vCPU threads: must not block, nor call the machine.
  std::function<void(const Event&)> on_event;
  // First thing in each vCPU thread, with its name: seccomp filters.
  std::function<void(const char* name)> on_thread_start;
};

struct MachineCounters {
  std::vector<ExitCounts> exits;  // of each vCPU, by kvm::ExitReason

  uint64_t exits_by(kvm::ExitReason reason) const {
    uint64_t total = 0;
    for (const ExitCounts& vcpu : exits) {
      total += vcpu.at(static_cast<size_t>(reason));
    }
    return total;
  }

  bus::BusCounters mmio;
  bus::BusCounters ports;
  uint64_t read_only_writes = 0;  // guest writes to read-only slots, dropped
  uint32_t memslots = 0;          // in use: RAM, images, windows; not what is plugged
};

class Machine : private ExitHandler {
 public:
  // Makes the VM, its memory and platform; loads the kernel.
  static Result<std::unique_ptr<Machine>> Create(MachineConfig config);
  // Stops the guest, then the devices.
  ~Machine() override;
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // Maps regular files into the guest's persistent memory window, read-only and one behind the other as devices::LayOutImages says, in one
  // memslot; what no file covers reads as zero. Guest writes are dropped and counted. INVALID_ARGUMENT and RESOURCE_EXHAUSTED name the image.
  Result<arch::AddressRange> MapReadOnlyImages(std::vector<UniqueFd> files);

  // Takes away what one MapReadOnlyImages made, after the device that shows it: an access finds nothing there. Devices whose queues run are
  // stopped for it and go on. NOT_FOUND.
  Result<> UnmapReadOnlyImages(arch::AddressRange range);

  // The hot-plug window, for a virtio-mem device over all of it.
  arch::AddressRange hotplug_window() const { return plan_.hotplug; }

  // That device's memslots, each of `chunk` bytes: a multiple of 2 MiB that divides the window. FAILED_PRECONDITION: there is one, or what
  // one has plugged. Other devices' queues are
  // stopped when chunks go, and some (vhost-net's) when they come. The calling thread needs KVM_SET_USER_MEMORY_REGION and fallocate.
  Result<std::unique_ptr<devices::MemorySlots>> MakeMemorySlots(uint64_t chunk);

  // Puts a virtio device behind PCI, where PciBus::Add finds a place; also while the guest runs (the guest must then rescan). The place.
  // `window`: what the guest sees in the device's one shared-memory region, which has this size; without, the guest reads zeros in regions.
  // vCPU threads then need KVM_SET_USER_MEMORY_REGION.
  Result<pci::Place> AttachDevice(std::unique_ptr<virtio::VirtioDevice> device,
                                  std::shared_ptr<mem::FileWindow> window = nullptr);

  // Takes the device off the bus and destroys it: its queues are stopped, nobody of ours is in it, and its descriptors are closed when this
  // returns. Also while the guest runs: it has let go of it, or sees all ones there. NOT_FOUND.
  Result<> DetachDevice(pci::Place place, pci::PciBus::After then = pci::PciBus::After::kFree);

  // The guest does not let go of the device: it is destroyed as by DetachDevice, but what the guest sees of it stays in its place until the
  // machine ends, and fails every request, those in flight first (gone/gone_device.h). One that no driver has begun with leaves nothing but
  // a place that is nobody's. `worker`: of the thread that answers. Waits for the host's I/O that is in flight. NOT_FOUND.
  Result<> FailDevice(pci::Place place, const devices::WorkerOptions& worker);

  // After Boot, from any thread: a vCPU's thread starts, before the guest is asked to bring the vCPU on line, and stops when the guest has taken
  // it off line. As VcpuThreads::StartOne and StopOne; FAILED_PRECONDITION before Boot.
  Result<> StartVcpu(uint32_t id);
  Result<> StopVcpu(uint32_t id);
  // Of the vCPUs that run: for pinning. Empty before Boot.
  std::vector<VcpuThreadId> vcpu_threads() const;

  // Once, also when it fails: the guest does not run then, and does not boot again.
  Result<> Boot();
  // When it returns no vCPU runs. Idempotent.
  void Pause();
  void Resume();
  // Ends the guest without its consent; joins the vCPU threads.
  void Stop();

  // Bytes typed at the console; returns how many were taken.
  size_t ConsoleInput(std::span<const std::byte> bytes) { return platform_->ConsoleInput(bytes); }

  std::shared_ptr<const mem::GuestMemory> memory() const {
    const std::lock_guard lock(memory_mu_);
    return memory_;
  }

  MachineCounters counters() const;

 private:
  class PluggedChunks;

  explicit Machine(MachineConfig config, kvm::Kvm kvm, kvm::Vm vm);
  Result<> Initialize();
  Result<> MakeMemory();
  Result<> MakePci();
  Result<uint32_t> TakeMemslot();
  void GiveMemslot(uint32_t number);
  void CloseWindow(pci::Place place);
  Result<uint64_t> FreeImageRange(uint64_t size) const;
  Result<uint32_t> AddMemslot(const mem::RegionInfo& region);
  Result<> CheckMemory(const mem::GuestMemory& memory);
  // Devices that can go on in memory that only grew are not stopped for it.
  enum class MemoryChange : uint8_t { kGrew, kOther };
  void UseMemory(std::shared_ptr<const mem::GuestMemory> memory, MemoryChange change);

  void OnPort(const kvm::Exit& exit) override;
  void OnMmio(const kvm::Exit& exit) override;
  void OnEndOfInterrupt(uint8_t vector) override;
  bool OnSystemEvent(uint64_t type) override;
  void OnFault(const kvm::Vcpu& vcpu, const std::string& what) override;
  bool IsOff(const kvm::Vcpu& vcpu) override;
  void OnRequest(legacy::GuestRequest request);
  void End(EventKind kind, std::string text);

  MachineConfig config_;
  kvm::Kvm kvm_;
  kvm::Vm vm_;
  arch::AddressPlan plan_;

  struct Images {
    uint64_t size = 0;
    uint32_t memslot = 0;
  };

  struct Window {
    uint32_t memslot = 0;
    std::shared_ptr<WindowSlot> slot;
  };

  // Guards what a change of memory touches, up to devices_.
  mutable std::mutex memory_mu_;
  std::shared_ptr<const mem::GuestMemory> memory_;
  uint32_t next_memslot_ = 0;
  std::vector<uint32_t> free_memslots_;  // below next_memslot_
  std::atomic<uint32_t> memslots_{0};    // in use; counters() reads it without the mutex
  std::map<uint64_t, Images> images_;    // by where they are
  std::map<pci::Place, Window> windows_;
  UniqueFd hotplug_file_;                                      // the memory of all chunks
  mem::RamPages hotplug_pages_ = mem::RamPages::kTransparent;  // set with it
  // A device has the window's memslots, or has left some to the guest. Not under memory_mu_: devices are destroyed with it and without.
  std::atomic<bool> plugger_{false};
  bus::Bus mmio_;
  bus::Bus ports_;
  std::unique_ptr<arch::Platform> platform_;
  std::unique_ptr<pci::PciBus> pci_;
  std::map<pci::Place, std::shared_ptr<transport::PciTransport>> devices_;
  std::unique_ptr<VcpuThreads> vcpus_;
  std::atomic<bool> ended_{false};
  std::atomic<uint64_t> read_only_writes_{0};
};

}  // namespace wyvern::machine
