// transport/mmio_transport.h — virtio over MMIO, version 2 only: one page with all registers and the
// device's configuration, one interrupt.
// Spec:    VIRTIO 1.4 §4.2.
// Shape:   registers 0x000..0x0ff, 32 bits wide each; device configuration from 0x100, any width.
// Doorbells: an ioeventfd per queue on QueueNotify, told apart by the value written (the queue's
//          index); a notification without one is an exit that kicks the same eventfd.
//          NOTIFICATION_DATA puts ring state beside the index, which no such match can see past:
//          it is offered only where there are no doorbells to lose. Its data is ignored.
// Errors:  driver mistakes are ignored and counted (TransportCore::refused_writes); accesses that
//          are no register's, in another width, or against its direction read as zero, change
//          nothing and are counted.
// Threads: vCPU threads at once.
// Trust:   every access is the guest's.
#pragma once

#include <atomic>
#include <map>
#include <memory>

#include "bus/bus.h"
#include "irq/interrupts.h"
#include "transport/queue_doorbells.h"
#include "transport/transport_core.h"

namespace wyvern::transport {

// An edge-triggered line behind an eventfd (an irqfd): every event is a signal.
class EventLine final : public irq::InterruptLine {
 public:
  explicit EventLine(EventFd event) : event_(std::move(event)) {}

  void SetLevel(bool asserted) override {
    if (asserted) {
      event_.Signal();
    }
  }

  const EventFd& event() const { return event_; }

 private:
  const EventFd event_;
};

// Where the machine puts a device, as it tells the guest by ACPI, device tree or command line.
struct MmioPlace {
  uint64_t address = 0;  // of the registers on the bus
  // Guest physical addresses of the device's shared-memory regions, by id. A region without one does
  // not exist for the driver.
  std::map<uint8_t, mem::Gpa> shared_memory{};
};

class MmioTransport final : public bus::BusDevice {
 public:
  static constexpr uint64_t kSize = 0x1000;
  static constexpr uint16_t kMaxQueues = 255;

  // Insert the result into the bus at place.address, kSize bytes. `line`, level- or edge-triggered,
  // and `doorbells` must outlive it; no `doorbells`: every notification is an exit. INVALID_ARGUMENT:
  // the device has more than kMaxQueues, or more configuration than the page has room for.
  static Result<std::shared_ptr<MmioTransport>> Create(
      std::unique_ptr<virtio::VirtioDevice> device, std::shared_ptr<const mem::GuestMemory> memory,
      irq::InterruptLine& line, irq::DoorbellRegistry* doorbells, MmioPlace place);
  ~MmioTransport() override;
  MmioTransport(const MmioTransport&) = delete;
  MmioTransport& operator=(const MmioTransport&) = delete;

  void Read(uint64_t offset, std::span<std::byte> out) override;
  void Write(uint64_t offset, std::span<const std::byte> in) override;

  // For pause, memory hot-plug and metrics.
  TransportCore& core() { return *core_; }

  virtio::VirtioDevice& device() { return core_->device(); }

  // Accesses that are no register's.
  uint64_t ignored_accesses() const { return ignored_.load(std::memory_order_relaxed); }

 private:
  class LineInterrupt;
  MmioTransport(bool notification_data, MmioPlace place, std::unique_ptr<QueueDoorbells> bells);

  uint32_t ReadRegister(uint16_t offset);
  uint32_t ReadSharedMemory(uint16_t offset) const;
  void WriteRegister(uint16_t offset, uint32_t value);
  void WriteQueueRegister(uint16_t offset, uint16_t queue, uint32_t value);
  void WriteReady(uint16_t queue, uint32_t value);
  void Notify(uint32_t value);
  void ResetRegisters();
  uint16_t SelectedQueue() const;

  void Ignore() { ignored_.fetch_add(1, std::memory_order_relaxed); }

  const bool notification_data_;
  const MmioPlace place_;
  const std::unique_ptr<QueueDoorbells> bells_;
  std::shared_ptr<LineInterrupt> interrupt_;
  std::unique_ptr<TransportCore> core_;
  std::atomic<uint32_t> device_features_select_{0};
  std::atomic<uint32_t> driver_features_select_{0};
  std::atomic<uint32_t> queue_select_{0};
  std::atomic<uint32_t> shared_memory_select_{0};
  std::atomic<uint64_t> ignored_{0};
};

}  // namespace wyvern::transport
