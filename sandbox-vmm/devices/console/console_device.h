// console/console_device.h — virtio console with many ports, each joined with descriptors of the
// host's.
// Spec:    VIRTIO 1.4 §5.3.
// Shape:   queues 0 and 1 are port 0's (to and from the guest), 2 and 3 the control queues, then two
//          for each further port. A port has a host's end while descriptors are attached to it and
//          a guest's end while the guest has it open; each side is told of the other. Without
//          MULTIPORT there is port 0 only, always open.
// Bounds:  kMaxPorts; nothing of the guest's is kept but one chain of each port, in the ring; what
//          the driver is to be told is flags (console_control.h).
// Errors:  messages about ports that are not there, and unknown ones, are counted; a broken ring
//          needs a reset.
// Threads: one worker for all ports; `on_event` too. The owner's calls: any thread; they wait for
//          the worker, which waits for nobody. `on_emergency`: on vCPU threads.
// Trust:   messages and chains are the guest's, each message is copied once.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "console/console_control.h"
#include "console/console_port.h"
#include "virtio/device.h"
#include "worker/active_queue.h"
#include "worker/config_change.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

struct ConsolePortOptions {
  std::string name;      // UTF-8, at most 128 bytes; Linux makes /dev/virtio-ports/NAME of it
  bool console = false;  // a text console (hvcN); else a port for programs (vportNpM)
  ConsoleOverflow overflow = ConsoleOverflow::kWait;
};

struct ConsolePortState {
  PortControlState control;
  ConsoleOverflow overflow = ConsoleOverflow::kWait;
  uint32_t resume_at = 0;  // bytes of its first chain to the host that were written
};

// What the device is beyond its rings. What is attached to the ports is not part of it.
struct ConsoleState {
  static constexpr uint32_t kVersion = 1;
  uint32_t version = kVersion;
  bool driver_ready = false;
  uint16_t columns = 0;  // of port 0
  uint16_t rows = 0;
  std::vector<ConsolePortState> ports;
};

enum class ConsolePortEvent : uint8_t { kGuestOpened, kGuestClosed, kHostClosed };

struct ConsoleOptions {
  WorkerOptions worker;
  uint32_t max_ports = 1;
  // Those with which it starts, from id 0.
  std::vector<ConsolePortOptions> ports{};
  uint16_t columns = 0;  // of port 0; 0: unknown
  uint16_t rows = 0;
  // Characters of a guest that has nothing else to write with; without it, that is not offered.
  std::function<void(char)> on_emergency{};
  // A port was opened or closed. It may call the device.
  std::function<void(uint32_t id, ConsolePortEvent event)> on_event{};
  // Of a device with the same max_ports; in place of `ports`, `columns` and `rows`.
  std::optional<ConsoleState> resume{};
};

class ConsoleDevice final : public virtio::VirtioDevice {
 public:
  static constexpr uint32_t kMaxPorts = 31;

  // INVALID_ARGUMENT: too many ports, a name that is none, a state of another device.
  static Result<std::unique_ptr<ConsoleDevice>> Create(ConsoleOptions options);
  ~ConsoleDevice() override;
  ConsoleDevice(const ConsoleDevice&) = delete;
  ConsoleDevice& operator=(const ConsoleDevice&) = delete;

  // ALREADY_EXISTS, NOT_FOUND, INVALID_ARGUMENT (an id or name that cannot be). A port that is
  // removed is detached.
  Result<> AddPort(uint32_t id, ConsolePortOptions options);
  Result<> RemovePort(uint32_t id);

  // Joins a port with the host's descriptors, which this takes; the guest is told that the host has
  // opened it. It ends by itself when both directions have ended, with kHostClosed. NOT_FOUND;
  // FAILED_PRECONDITION: attached already; INVALID_ARGUMENT: no descriptors, or not to be waited for.
  Result<> Attach(uint32_t id, ConsoleEnds ends);
  // Closes the host's end. Idempotent. NOT_FOUND: no such port.
  Result<> Detach(uint32_t id);

  // Port 0's size is in the configuration, too. NOT_FOUND: no such port.
  Result<> Resize(uint32_t id, uint16_t columns, uint16_t rows);

  // Preconditions: the queues are stopped.
  ConsoleState state() const;

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override;
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;
  void Reset() override;
  std::vector<virtio::CounterValue> counters() const override;

 private:
  static constexpr uint16_t kControlToGuest = 2;
  static constexpr uint16_t kControlFromGuest = 3;

  struct Slot {
    explicit Slot(uint32_t id) : control(id) {}

    PortControl control;
    std::unique_ptr<ConsolePort> port;  // while it exists
    ConsoleOverflow overflow = ConsoleOverflow::kWait;
  };

  ConsoleDevice(ConsoleOptions options, std::unique_ptr<LoopThread> worker);
  Result<> Populate();
  Result<> Restore(const ConsoleState& state);
  // Runs `act` on the worker with the slot of a port that exists.
  Result<> WithPort(uint32_t id, const std::function<Result<>(Slot&)>& act);
  void MakePort(uint32_t id, ConsoleOverflow overflow);
  // The two queues of a port, counted from 0.
  static uint16_t QueueOf(uint32_t id, bool to_host);
  void ConnectQueue(uint16_t index, ActiveQueue* queue);
  void OnKick(uint16_t index);
  void DiscardFromGuest(uint16_t index);
  void TakeMessages();
  bool OnMessage(const ConsoleControl& message);
  bool OnPortMessage(Slot& slot, uint32_t id, const ConsoleControl& message);
  bool OnPortOpen(Slot& slot, uint32_t id, bool open);
  void SendMessages();
  PortControl* NextDue();
  void OnHostClosed(uint32_t id);
  void Tell(uint32_t id, ConsolePortEvent event);

  bool multiport() const { return (features_ & kConsoleFMultiport) != 0; }

  ConsoleOptions options_;
  virtio::DeviceTraits traits_;
  ConfigChange config_change_;
  ConsoleConfig config_;  // under config_change_'s lock
  ConsoleCounters counters_;

  // All below: worker's thread.
  uint64_t features_ = 0;
  bool driver_ready_ = false;
  std::vector<Slot> slots_;                           // max_ports
  std::vector<std::unique_ptr<ActiveQueue>> queues_;  // by index
  std::unique_ptr<LoopThread> worker_;                // last: ends before what it uses
};

}  // namespace wyvern::devices
