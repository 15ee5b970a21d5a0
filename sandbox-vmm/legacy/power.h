// legacy/power.h — small registers by which a guest ends itself: ACPI sleep and reset, keyboard-controller reset, pvpanic.
// Spec:    ACPI 6.5 §4.8.3.7 (sleep control and status), §4.8.3.6 (reset); qemu docs/specs/pvpanic.
// Threads: any vCPU thread; the callback is called there and must not block.
// Trust:   every value is the guest's; unknown ones have no effect.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "bus/bus.h"

namespace wyvern::legacy {

enum class GuestRequest : uint8_t {
  kPowerOff,
  kReset,
  kPanicked,     // pvpanic: the kernel panicked
  kCrashLoaded,  // pvpanic: a crash kernel runs now
  kShutdown,     // pvpanic: an orderly end is under way
};

using GuestRequestCallback = std::function<void(GuestRequest)>;

// Sleep control (0), sleep status (1), reset (2).
class PowerRegisters : public bus::BusDevice {
 public:
  static constexpr uint64_t kPorts = 3;

  explicit PowerRegisters(GuestRequestCallback callback);
  void Read(uint64_t offset, std::span<std::byte> out) override;
  void Write(uint64_t offset, std::span<const std::byte> in) override;

 private:
  const GuestRequestCallback callback_;
};

// Port 0x64 only: the controller answers "idle", and command 0xfe resets.
class KeyboardReset : public bus::BusDevice {
 public:
  static constexpr uint64_t kPort = 0x64;

  explicit KeyboardReset(GuestRequestCallback callback);
  void Read(uint64_t offset, std::span<std::byte> out) override;
  void Write(uint64_t offset, std::span<const std::byte> in) override;

 private:
  const GuestRequestCallback callback_;
};

// One port: reading says which events are known, writing raises them.
class PvPanic : public bus::BusDevice {
 public:
  explicit PvPanic(GuestRequestCallback callback);
  void Read(uint64_t offset, std::span<std::byte> out) override;
  void Write(uint64_t offset, std::span<const std::byte> in) override;

 private:
  const GuestRequestCallback callback_;
};

}  // namespace wyvern::legacy
