// virtio/device.h — a virtio device, written once: it knows no PCI, MMIO, socket or KVM.
// Spec:    VIRTIO 1.4 §2 (basic facilities).
// State:   the transport starts each queue when it is enabled and the driver has set DRIVER_OK,
//          stops every queue before Reset.
// Threads: all calls of this interface come from one thread at a time (TransportCore serialises
//          them). A device may run queue workers of its own; StopQueue returns only when the worker
//          no longer touches the queue.
// Trust:   config offsets, lengths and contents, and everything in the queues, are guest-
//          controlled.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/event_fd.h"
#include "mem/guest_memory.h"
#include "virtio/queue.h"

namespace wyvern::virtio {

// A shared-memory region that the device has (VIRTIO §2.10). The transport finds it a place in guest
// physical memory; what is mapped there is the device's affair.
struct SharedMemoryRegion {
  uint8_t id = 0;       // device-specific; virtio-fs: 0 is the DAX window
  uint64_t length = 0;  // bytes, a multiple of 4096
};

struct DeviceTraits {
  uint16_t device_id = 0;  // VIRTIO §5: 2 blk, 4 rng, 19 vsock, 26 fs, 27 pmem, …
  uint64_t features = 0;  // device-specific and ring features offered; the transport adds VERSION_1
  std::vector<uint16_t> queue_sizes;  // maximum size per queue, powers of two
  uint32_t config_length = 0;         // bytes of device-specific configuration
  const char* name = "";              // for logs, metrics and thread names
  std::vector<SharedMemoryRegion> shared_memory{};
  // vhost-user: a ring that is started and disabled runs, without side effects (SetQueueEnabled).
  // The rings of other devices stand still then.
  bool runs_disabled = false;
  // Features of the last queue, by which the driver controls the device (net). A vhost-user front-end
  // serves that queue itself, so a back-end has neither. 0: there is none.
  uint64_t control_features = 0;
};

// How a device interrupts its driver; hides irqfd, MSI-X and vhost-user call fds. Any thread.
// Idempotent in effect.
class Interrupt {
 public:
  virtual ~Interrupt() = default;
  // Used buffers in queue `index` (the queue has already decided that the driver wants to know).
  virtual void SignalQueue(uint16_t index) = 0;
  // Configuration changed: what the driver reads from now on. The generation is the transport's.
  virtual void SignalConfig() = 0;
  // An eventfd for SignalQueue(index) that a second process may signal (vhost-user call fd), as long as
  // this lives; invalid FdRef if there is none. To be asked for in StartQueue, by the thread that calls
  // that: to route it takes calls that not every thread has.
  virtual FdRef QueueCallFd(uint16_t index) = 0;
};

struct QueueResources {
  std::shared_ptr<const mem::GuestMemory> memory;
  QueueConfig
      config;  // size and addresses, validated by the transport (frozen while the queue runs)
  FdRef kick{
      -1};  // readable when the driver has notified; owned by the transport, outlives the queue
  std::shared_ptr<Interrupt> interrupt;
  // Puts a new eventfd in place of `kick`, notified once already, and returns it; `kick` is no more then.
  // For a device that gave `kick` to a process which is another's now (vhost-user). While the queue
  // runs, from any thread. Empty: the transport cannot.
  std::function<Result<FdRef>()> renew_kick{};
};

// One metric of a device: a number that only grows, or a gauge.
struct CounterValue {
  const char* name = "";
  uint64_t value = 0;
};

class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;
  virtual const DeviceTraits& traits() const = 0;
  // Past the end reads as zero.
  virtual void ReadConfig(uint32_t offset, std::span<std::byte> out) = 0;
  virtual void WriteConfig(uint32_t offset, std::span<const std::byte> in) = 0;

  // FEATURES_OK: what the driver took, before any queue starts. Configuration may depend on it.
  virtual void FeaturesAccepted(uint64_t /*features*/) {}

  // `features`: what was negotiated. `resume`: ring state of an earlier StopQueue. An Error makes
  // the transport set DEVICE_NEEDS_RESET.
  virtual Result<> StartQueue(uint16_t index, QueueResources resources, uint64_t features,
                              std::optional<QueueState> resume) = 0;
  // Idempotent; drains what is in flight, but for what the device keeps to go on with it when the
  // queue resumes there. Nothing if the queue was not running.
  virtual std::optional<QueueState> StopQueue(uint16_t index) = 0;
  // All queues are already stopped.
  virtual void Reset() = 0;

  // Whether the device could be used with `memory` at all: its peer may have room for fewer regions. Asked
  // before memory is plugged and unplugged.
  virtual bool TakesMemory(const mem::GuestMemory& /*memory*/) { return true; }

  // The guest's memory is now `memory`: more than running queues were started with. True: they go on
  // in it, those made with their QueueConfig's feed without any doing. False: they must be stopped for
  // it.
  virtual bool MemoryGrew(const std::shared_ptr<const mem::GuestMemory>& /*memory*/) {
    return true;
  }

  // Where traits().runs_disabled: said before the queue starts, and while it runs. A queue that
  // nobody has said anything of is enabled.
  virtual void SetQueueEnabled(uint16_t /*index*/, bool /*enabled*/) {}

  // For metrics; any thread.
  virtual std::vector<CounterValue> counters() const { return {}; }

  // Set by the transport once: the device calls it (any thread) when a queue is broken by what the
  // driver wrote. A device whose threads run before that (a vhost-user front-end's) may have had a
  // fault already: it is told by StartQueue then.
  void set_fault_callback(std::function<void()> callback) {
    const std::lock_guard lock(fault_mu_);
    on_fault_ = std::move(callback);
  }

 protected:
  // DEVICE_NEEDS_RESET (VIRTIO §2.1.2).
  void NeedsReset() {
    std::function<void()> callback;
    {
      const std::lock_guard lock(fault_mu_);
      callback = on_fault_;
    }
    if (callback) {
      callback();  // without the lock: it may take the transport's
    }
  }

 private:
  std::mutex fault_mu_;
  std::function<void()> on_fault_;  // guarded by fault_mu_
};

}  // namespace wyvern::virtio
