// transport/transport_core.h — the state of a virtio device as its driver sees it, for every
// transport.
// Spec:    VIRTIO 1.4 §2.1 (status), §2.2 (features), §2.5 (configuration), §3.1 (initialization).
// State:   status bits are only ever added by the driver, in the order ACKNOWLEDGE, DRIVER,
//          FEATURES_OK, DRIVER_OK; writing 0 resets.
//          Queues are configured between FEATURES_OK and DRIVER_OK; a queue's size and addresses
//          are frozen once it is enabled and until a reset of the device or, where RING_RESET is
//          negotiated, of the queue (CVE-2026-5747). DRIVER_OK starts the enabled queues; one that
//          is enabled again after its own reset starts at once.
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
#include "virtio/memory_feed.h"

namespace wyvern::transport {

// One queue's registers. Written by the driver while it is neither enabled nor running.
struct QueueRegisters {
  virtio::QueueConfig config;
  bool enabled = false;
  // By VIRTIO_F_RING_RESET, and not enabled since: the driver sets it up again, also after DRIVER_OK.
  bool reset = false;
};

// What survives a stop of the whole device; versioned for snapshots.
struct TransportState {
  static constexpr uint32_t kVersion = 2;
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
  // QueueResources::renew_kick of queue `index`.
  using KickRenewal = std::function<Result<FdRef>(uint16_t index)>;

  // `interrupt` is handed to the device with each queue. `transport_features`: bits that the
  // transport offers besides the device's, and that the device does not get to see (RING_RESET,
  // NOTIFICATION_DATA).
  TransportCore(std::unique_ptr<virtio::VirtioDevice> device,
                std::shared_ptr<const mem::GuestMemory> memory,
                std::shared_ptr<virtio::Interrupt> interrupt, KickSource kick,
                uint64_t transport_features = 0);
  // Stops every queue, then destroys the device.
  ~TransportCore();
  TransportCore(const TransportCore&) = delete;
  TransportCore& operator=(const TransportCore&) = delete;

  // Those of the first device: a replacement has the same.
  const virtio::DeviceTraits& traits() const { return traits_; }

  virtio::VirtioDevice& device() { return *device_; }

  // VERSION_1, what the device offers and what the transport does.
  uint64_t device_features() const;

  // --- The driver's part: registers of PCI and MMIO. ---
  uint8_t status() const { return status_.load(std::memory_order_acquire); }

  // 0 resets: every queue is stopped when this returns. It always succeeds, whatever state the
  // device is in (FC #5818).
  void WriteStatus(uint8_t value);
  // 32 bits at a time (select 0 or 1; others are zero).
  uint32_t ReadDeviceFeatures(uint32_t select) const;
  uint32_t ReadDriverFeatures(uint32_t select) const;
  void WriteDriverFeatures(uint32_t select, uint32_t value);

  uint16_t queue_count() const { return static_cast<uint16_t>(traits().queue_sizes.size()); }

  // A queue that does not exist reads as size 0 and ignores writes: `index` comes from
  // queue_select.
  QueueRegisters queue(uint16_t index) const;

  // What the device can do; 0 for a queue that does not exist.
  uint16_t max_queue_size(uint16_t index) const {
    return index < queue_count() ? traits().queue_sizes[index] : uint16_t{0};
  }

  // At most the device's maximum: a power of two, or any size but 0 where RING_PACKED is negotiated
  // (VIRTIO §2.7, §2.8).
  void WriteQueueSize(uint16_t index, uint16_t size);
  enum class Area : uint8_t { kDescriptor, kDriver, kDevice };
  // Low or high 32 bits of an address.
  void WriteQueueAddress(uint16_t index, Area area, bool high, uint32_t value);
  void EnableQueue(uint16_t index);
  // MMIO's QueueReady = 0 (VIRTIO §4.2.2): the queue is stopped when this returns. After DRIVER_OK
  // only a reset of it, or of the device, makes it the driver's to set up again.
  void DisableQueue(uint16_t index);
  // VIRTIO §2.6.1, where RING_RESET is negotiated: stops the queue, after which its registers are as
  // after a reset of the device, and writable. The other queues go on. True if it was carried out.
  bool ResetQueue(uint16_t index);

  // What queue_reset shows: ResetQueue runs in another thread. Takes no lock, since that one is
  // held meanwhile.
  bool queue_resetting(uint16_t index) const {
    return index < resetting_.size() && resetting_[index].load(std::memory_order_acquire);
  }

  // VIRTIO §2.5: past the end reads as zero. A read that shows any change since the last one raises
  // the generation first, so that no change can hide in an 8-bit generation that went round
  // (VIRTIO §4.1.4.3.1) and no device has to tell.
  void ReadConfig(uint32_t offset, std::span<std::byte> out);
  void WriteConfig(uint32_t offset, std::span<const std::byte> in);

  uint32_t config_generation() const { return generation_.load(std::memory_order_acquire); }

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
  // For queues that start from now on, and for those that run, where the device makes them with their
  // feed, from their next chain on. Takes no lock that is held while the device is called: a device
  // that plugs memory itself calls this from its own thread (virtio-mem), which a stop waits for.
  void SetMemory(std::shared_ptr<const mem::GuestMemory> memory);
  // False: it could not go on in that memory, by any means.
  bool TakesMemory(const mem::GuestMemory& memory);
  // The guest has more memory than before: queues that run go on in it. False: this device's must be
  // stopped for it, and nothing has changed.
  bool GrowMemory(const std::shared_ptr<const mem::GuestMemory>& memory);
  // The guest's memory is another one: queues that run are stopped and go on in it, with no call of the
  // driver or of Pause and Resume in between. Queues that are paused stay so. The first error of those
  // that cannot go on, with NEEDS_RESET.
  Result<> ChangeMemory(std::shared_ptr<const mem::GuestMemory> memory);
  // Stops every queue and remembers the rings: pause, snapshot. Resume continues; an error when a ring
  // is gone. Preconditions: no vCPU runs in between.
  TransportState Pause();
  Result<> Resume();

  // The device is taken away under its driver: `replacement`, which has its traits, takes every queue over where it stands, with a kick that
  // no other process has, and the driver is told to look at the configuration. A queue that it does not take is NEEDS_RESET. Blocks until the
  // device has drained what is in flight; it is destroyed when this returns. Nobody uses device() meanwhile.
  void ReplaceDevice(std::unique_ptr<virtio::VirtioDevice> replacement);

  // Set before any queue starts; not called under the core's lock.
  void set_kick_renewal(KickRenewal renew) { renew_kick_ = std::move(renew); }

  // Called before the status becomes 0, under the core's lock: the transport resets its own
  // registers. It must not call back.
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
  QueueSlot DefaultSlot(size_t index) const;
  void AddStatusLocked(uint8_t value);
  bool FeaturesAcceptable() const;
  // What the driver accepted, without the transport's own bits: they are none of the device's
  // business, and a vhost-user back-end would refuse bits that it has not offered.
  uint64_t FeaturesOfDevice() const;
  void StartEnabledLocked();
  // False, with NEEDS_RESET, when the device does not take it.
  bool StartOrBreakLocked(uint16_t index);
  Result<> StartLocked(uint16_t index, std::optional<virtio::QueueState> resume);
  std::optional<virtio::QueueState> StopLocked(uint16_t index);
  bool SizeValidLocked(uint16_t index, uint16_t size) const;
  QueueSlot* ConfigurableLocked(uint16_t index);
  void MarkNeedsReset();

  void Refuse() { refused_.fetch_add(1, std::memory_order_relaxed); }

  std::unique_ptr<virtio::VirtioDevice> device_;  // guarded by mu_ once queues can start
  const virtio::DeviceTraits traits_;
  const std::shared_ptr<virtio::Interrupt> interrupt_;
  const KickSource kick_;
  KickRenewal renew_kick_;
  const uint64_t transport_features_;
  mutable std::mutex mu_;
  const std::shared_ptr<virtio::MemoryFeed> feed_;
  std::vector<QueueSlot> queues_;             // guarded by mu_
  uint64_t driver_features_ = 0;              // guarded by mu_
  std::vector<std::byte> config_now_;         // guarded by mu_
  std::vector<std::byte> config_seen_;        // guarded by mu_; empty: not read yet
  std::vector<std::atomic<bool>> resetting_;  // written under mu_
  std::atomic<uint8_t> status_{0};
  std::atomic<uint32_t> generation_{0};
  std::atomic<uint64_t> refused_{0};
  std::function<void()> on_reset_;
  std::function<void()> on_broken_;
};

}  // namespace wyvern::transport
