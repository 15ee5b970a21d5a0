// transport/pci_transport.h — virtio over PCI, modern only: one 64-bit memory BAR with all
// structures, MSI-X, one doorbell per queue, a second BAR for shared memory.
// Spec:    VIRTIO 1.4 §4.1.
// Shape:   BAR 0, 32 KiB: common configuration 0x0, ISR 0x1000, device configuration 0x2000,
//          notifications 0x3000 (4 bytes per queue), MSI-X table 0x4000, PBA 0x5000. Vectors: one
//          per queue and one for configuration changes. BAR 2: the device's shared-memory regions.
//          NOTIFICATION_DATA is offered: a queue is known by its address, and a doorbell takes a
//          write of any width, so the 32-bit one costs nothing. Its data tells nothing that the
//          ring does not, and an eventfd could not carry it: it is ignored.
// Errors:  driver mistakes are ignored and counted (TransportCore::refused_writes); accesses that
//          are no field in its own size read as zero, change nothing and are counted.
// Threads: vCPU threads at once.
// Trust:   every access is the guest's.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "irq/interrupts.h"
#include "pci/function.h"
#include "transport/queue_doorbells.h"
#include "transport/transport_core.h"

namespace wyvern::transport {

class PciTransport final : public pci::Function {
 public:
  static constexpr uint64_t kBarSize = 0x8000;
  static constexpr uint16_t kMaxQueues = 255;
  // As many capabilities as the configuration space has room for.
  static constexpr size_t kMaxSharedMemory = 3;

  // Give the result to PciBus::Add. `router` and `doorbells` must outlive it. INVALID_ARGUMENT: the
  // device has more than kMaxQueues or kMaxSharedMemory, or regions that are none.
  static Result<std::shared_ptr<PciTransport>> Create(
      std::unique_ptr<virtio::VirtioDevice> device, std::shared_ptr<const mem::GuestMemory> memory,
      irq::MsiRouter& router, irq::DoorbellRegistry& doorbells);
  ~PciTransport() override;
  PciTransport(const PciTransport&) = delete;
  PciTransport& operator=(const PciTransport&) = delete;

  // For pause, memory hot-plug and metrics.
  TransportCore& core() { return *core_; }

  virtio::VirtioDevice& device() { return core_->device(); }

  // Accesses that are no field's.
  uint64_t ignored_accesses() const { return ignored_.load(std::memory_order_relaxed); }

  // Shared-memory region `id` appeared at an address, or nowhere: whoever maps memory into the guest
  // moves it there. Until then the guest reads zeros. Set before PciBus::Add; called by the vCPU
  // thread that moves the BAR, with the configuration locked: no configuration access from there.
  using SharedMemoryMoved = std::function<void(uint8_t id, std::optional<mem::Gpa> address)>;

  void set_shared_memory_callback(SharedMemoryMoved callback) { on_moved_ = std::move(callback); }

 protected:
  void ReadBar(unsigned bar, uint64_t offset, std::span<std::byte> out) override;
  void WriteBar(unsigned bar, uint64_t offset, std::span<const std::byte> in) override;
  void OnBarMapped(unsigned bar, std::optional<uint64_t> address) override;
  void BeforeConfigRead(uint16_t offset, size_t length) override;
  void AfterConfigWrite(uint16_t offset, size_t length) override;

 private:
  class MsixInterrupt;
  PciTransport(const virtio::DeviceTraits& traits, std::unique_ptr<QueueDoorbells> bells);
  void AddStructure(uint8_t type, uint64_t offset, uint32_t length);
  void AddStructures(const virtio::DeviceTraits& traits);
  void AddSharedMemory(const std::vector<virtio::SharedMemoryRegion>& regions);

  // The common configuration (pci_common_config.cc).
  void ReadCommon(uint64_t offset, std::span<std::byte> out);
  void WriteCommon(uint64_t offset, std::span<const std::byte> in);
  uint32_t ReadCommonField(uint8_t field);
  void WriteCommonField(uint8_t field, uint32_t value);
  void WriteQueueField(uint8_t field, uint16_t queue, uint32_t value);
  void ResetRegisters();

  void Ignore() { ignored_.fetch_add(1, std::memory_order_relaxed); }

  void Ring(uint64_t notify_offset);

  // The PCI configuration access capability: its window, when valid.
  struct PciAccess {
    uint8_t bar = 0;
    uint32_t offset = 0;
    uint32_t size = 0;
  };

  std::optional<PciAccess> AccessWindow(uint16_t offset, size_t length);

  const std::unique_ptr<QueueDoorbells> bells_;
  std::shared_ptr<MsixInterrupt> interrupt_;
  std::unique_ptr<TransportCore> core_;
  uint16_t pci_access_ = 0;                                  // offset of that capability
  std::vector<std::pair<uint8_t, uint64_t>> shared_memory_;  // id and offset in its BAR
  SharedMemoryMoved on_moved_;
  std::atomic<uint64_t> ignored_{0};
  std::atomic<uint32_t> device_feature_select_{0};
  std::atomic<uint32_t> driver_feature_select_{0};
  std::atomic<uint16_t> queue_select_{0};
};

}  // namespace wyvern::transport
