// console/console_control.h — what a driver knows of a port, and what it has to be told.
// Spec:    VIRTIO 1.4 §5.3.6.2 (control messages), §5.3.3 (feature bits), §5.3.4 (configuration).
// Shape:   what is due is a set of flags for each port and no queue of messages: a driver that never
//          takes its messages, or asks for them over and over, makes nothing grow.
// Invariants: a port is added only when the driver does not have it, and removed only when it does
//          (§5.3.6.2.1); of what is due REMOVE goes first, then ADD, and so on in the flags' order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/endian.h"

namespace wyvern::devices {

// VIRTIO §5.3.3
inline constexpr uint64_t kConsoleFSize = uint64_t{1} << 0;
inline constexpr uint64_t kConsoleFMultiport = uint64_t{1} << 1;
inline constexpr uint64_t kConsoleFEmergWrite = uint64_t{1} << 2;

enum class ConsoleEvent : uint16_t {
  kDeviceReady = 0,
  kPortAdd = 1,
  kPortRemove = 2,
  kPortReady = 3,
  kConsolePort = 4,
  kResize = 5,
  kPortOpen = 6,
  kPortName = 7,
};

// struct virtio_console_control
struct ConsoleControl {
  Le32 id;
  Le16 event;
  Le16 value;
};

static_assert(sizeof(ConsoleControl) == 8);

// Columns first, as the specification has it; Linux before its commit 5326ab737a47 (2025) takes them
// the other way round in the control message, not in the configuration.
struct ConsoleSize {
  Le16 columns;
  Le16 rows;
};

// struct virtio_console_config
struct ConsoleConfig {
  ConsoleSize size;
  Le32 max_ports;
  Le32 emergency;
};

static_assert(sizeof(ConsoleConfig) == 12);

class ConsoleMessage {
 public:
  static constexpr size_t kMaxPayload = 128;

  ConsoleMessage(uint32_t id, ConsoleEvent event, uint16_t value,
                 std::span<const std::byte> payload = {});

  std::span<const std::byte> bytes() const { return std::span(bytes_).first(size_); }

 private:
  std::array<std::byte, sizeof(ConsoleControl) + kMaxPayload> bytes_{};
  size_t size_ = 0;
};

// What survives a pause of a port's control state.
struct PortControlState {
  bool exists = false;
  std::string name;
  bool console = false;
  uint16_t columns = 0;
  uint16_t rows = 0;
  bool added = false;
  bool ready = false;
  bool guest_open = false;
  uint8_t due = 0;
};

class PortControl {
 public:
  explicit PortControl(uint32_t id) : id_(id) {}

  // The owner's side.
  void Create(std::string name, bool console, bool driver_ready);
  void Remove();
  void Resize(uint16_t columns, uint16_t rows);
  // The host's end of the port.
  void HostOpened();
  void HostClosed();

  // The driver's side.
  void DriverReady();
  // False: a message that this port cannot have had.
  bool PortReady(bool success);
  bool PortOpen(bool open);
  void Reset();

  bool exists() const { return state_.exists; }

  bool guest_open() const { return state_.guest_open; }

  bool owes() const { return state_.due != 0; }

  // The next message, and that it has been sent.
  std::optional<ConsoleMessage> Next() const;
  void Sent();

  const PortControlState& state() const { return state_; }

  // The host's end is not part of a state: it is closed until somebody attaches it.
  void Restore(PortControlState state);

 private:
  // What is due.
  static constexpr unsigned kRemove = 1;
  static constexpr unsigned kAdd = 2;
  static constexpr unsigned kConsole = 4;
  static constexpr unsigned kName = 8;
  static constexpr unsigned kClose = 16;
  static constexpr unsigned kOpen = 32;
  static constexpr unsigned kSize = 64;

  // The driver has the port, and is not about to lose it.
  bool Known() const { return state_.exists && state_.added && (state_.due & kRemove) == 0; }

  void Owe(unsigned due) { state_.due = static_cast<uint8_t>(state_.due | due); }

  void Forget(unsigned due) { state_.due = static_cast<uint8_t>(state_.due & ~due); }

  const uint32_t id_;
  PortControlState state_;
  bool host_open_ = false;
};

}  // namespace wyvern::devices
