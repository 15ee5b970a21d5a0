// transport/transport_core.h — the state of a virtio device as its driver sees it, for every
// transport.
// Spec:    VIRTIO 1.3 §2.1 (status), §2.2 (features), §2.5 (configuration), §3.1 (initialization).
// State:   status bits are only ever added by the driver, in the order ACKNOWLEDGE, DRIVER,
//          FEATURES_OK, DRIVER_OK; writing 0 resets.
//          Queues are configured between FEATURES_OK and DRIVER_OK; a queue's size and addresses
//          are frozen once it is enabled and until
//          reset (CVE-2026-5747). DRIVER_OK starts the enabled queues.
//          vhost-user has no such bits by default: VhostUserBackend uses SetFeatures,
//          ConfigureQueue, StartQueue and StopQueue.
// Errors:  what the driver may not do is ignored and counted; a queue that cannot start or that
//          breaks sets DEVICE_NEEDS_RESET, but for a driver that has not begun (status 0).
// Threads: any; one mutex, held while the device is called. The device's fault callback takes no
//          lock.
// Trust:   every argument of the driver's part is guest-controlled.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "virtio/device.h"
#include "virtio/feature_bits.h"

namespace wyvern::transport {

// One queue's registers. Written by the driver while it is neither enabled nor running.
struct QueueRegisters {
  virtio::QueueConfig config;
  bool enabled = false;
};

// What survives a stop of the whole device; versioned for snapshots.
struct TransportState {
  static constexpr uint32_t kVersion = 1;
  uint32_t version = kVersion;
  uint8_t status = 0;
  uint64_t driver_features = 0;
  std::vector<QueueRegisters> queues;
  std::vector<std::optional<virtio::QueueState>> rings;
};

class TransportCore {
 public:
  // The eventfd that is readable when queue `index` was notified; asked for when the queue starts,
  // it
  // stays open until the queue has stopped.
  using KickSource = std::function<FdRef(uint16_t index)>;

  // `interrupt` is handed to the device with each queue.
  TransportCore(std::unique_ptr<virtio::VirtioDevice> device,
                std::shared_ptr<const mem::GuestMemory> memory,
                std::shared_ptr<virtio::Interrupt> interrupt, KickSource kick);
  // Stops every queue, then destroys the device.
  ~TransportCore();
  TransportCore(const TransportCore&) = delete;
  TransportCore& operator=(const TransportCore&) = delete;

  const virtio::DeviceTraits& traits() const { return device_->traits(); }

  virtio::VirtioDevice& device() { return *device_; }

  // VERSION_1 and what the device offers.
  uint64_t device_features() const;

  // --- The driver's part: registers of PCI and MMIO. ---
  uint8_t status() const { return status_.load(std::memory_order_acquire); }

  // 0 resets: every queue is stopped when this returns.
  void WriteStatus(uint8_t value);
  // 32 bits at a time (select 0 or 1; others are zero).
  uint32_t ReadDeviceFeatures(uint32_t select) const;
  uint32_t ReadDriverFeatures(uint32_t select) const;
  void WriteDriverFeatures(uint32_t select, uint32_t value);

  uint16_t queue_count() const { return static_cast<uint16_t>(traits().queue_sizes.size()); }

  // A queue that does not exist reads as size 0 and ignores writes: `index` comes from
  // queue_select.
  QueueRegisters queue(uint16_t index) const;
  void WriteQueueSize(uint16_t index, uint16_t size);
  enum class Area : uint8_t { kDescriptor, kDriver, kDevice };
  // Low or high 32 bits of an address.
  void WriteQueueAddress(uint16_t index, Area area, bool high, uint32_t value);
  void EnableQueue(uint16_t index);

  void ReadConfig(uint32_t offset, std::span<std::byte> out);
  void WriteConfig(uint32_t offset, std::span<const std::byte> in);

  uint32_t config_generation() const { return generation_.load(std::memory_order_acquire); }

  // By the transport's Interrupt before it signals (VIRTIO §2.5.1).
  void BumpConfigGeneration() { generation_.fetch_add(1, std::memory_order_acq_rel); }

  // --- vhost-user's part: the same device without status bits. ---
  // INVALID_ARGUMENT: a bit that was not offered, or a queue is running.
  Result<> SetFeatures(uint64_t features);
  // INVALID_ARGUMENT: no such queue, a bad size. FAILED_PRECONDITION: it is running.
  Result<> ConfigureQueue(uint16_t index, const virtio::QueueConfig& config);
  Result<> StartQueue(uint16_t index, std::optional<virtio::QueueState> resume);
  // Idempotent: nothing when it was not running.
  std::optional<virtio::QueueState> StopQueue(uint16_t index);
  bool running(uint16_t index) const;

  void Reset() { WriteStatus(0); }

  // --- The machine's part. ---
  // For queues that start from now on (memory hot-plug, SET_MEM_TABLE).
  void SetMemory(std::shared_ptr<const mem::GuestMemory> memory);
  // Stops every queue and remembers the rings: pause, snapshot, before SetMemory. Resume continues;
  // an error when a ring is gone.
  TransportState Pause();
  Result<> Resume();

  // Called when status becomes 0, with no lock of the core held: the transport resets its own
  // registers.
  void set_reset_callback(std::function<void()> callback) { on_reset_ = std::move(callback); }

  // Called when DEVICE_NEEDS_RESET appears, and for every fault while the status is 0, as it always
  // is for transports without status. Any thread, also under the core's lock: it must not call back.
  void set_broken_callback(std::function<void()> callback) { on_broken_ = std::move(callback); }

  // Writes the driver may not make, since the start.
  uint64_t refused_writes() const { return refused_.load(std::memory_order_relaxed); }

 private:
  struct QueueSlot {
    QueueRegisters registers;
    bool running = false;
    std::optional<virtio::QueueState> paused;  // set by Pause
  };

  void ResetLocked();
  void AddStatusLocked(uint8_t value);
  bool FeaturesAcceptable() const;
  void StartEnabledLocked();
  Result<> StartLocked(uint16_t index, std::optional<virtio::QueueState> resume);
  QueueSlot* ConfigurableLocked(uint16_t index);
  void MarkNeedsReset();

  void Refuse() { refused_.fetch_add(1, std::memory_order_relaxed); }

  std::unique_ptr<virtio::VirtioDevice> device_;
  const std::shared_ptr<virtio::Interrupt> interrupt_;
  const KickSource kick_;
  mutable std::mutex mu_;
  std::shared_ptr<const mem::GuestMemory> memory_;  // guarded by mu_
  std::vector<QueueSlot> queues_;                   // guarded by mu_
  uint64_t driver_features_ = 0;                    // guarded by mu_
  std::atomic<uint8_t> status_{0};
  std::atomic<uint32_t> generation_{0};
  std::atomic<uint64_t> refused_{0};
  std::function<void()> on_reset_;
  std::function<void()> on_broken_;
};

}  // namespace wyvern::transport
