// legacy/io_apic.h — an I/O APIC in user space, for KVM's split irqchip: turns lines into messages.
// Spec:    Intel 82093AA data sheet; version 0x11, 8 pins (a guest touches each one several times at boot), no EOI register.
// Errors:  none; what the guest programs wrongly interrupts nobody.
// Threads: any; one mutex, held while messages are sent.
// Trust:   every register write is the guest's.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "bus/bus.h"
#include "irq/interrupts.h"

namespace wyvern::legacy {

class IoApic : public bus::BusDevice {
 public:
  static constexpr size_t kPins = 8;
  static constexpr uint64_t kSize = 0x1000;

  using PinMessages = std::array<std::optional<irq::MsiMessage>, kPins>;
  using SendFunction = std::function<void(irq::MsiMessage)>;
  // Level-triggered pins, unmasked or in service, whose end of interrupt must be reported to EndOfInterrupt.
  using LevelPinsFunction = std::function<void(const PinMessages&)>;

  IoApic(SendFunction send, LevelPinsFunction level_pins_changed);
  ~IoApic() override;
  IoApic(const IoApic&) = delete;
  IoApic& operator=(const IoApic&) = delete;

  void Read(uint64_t offset, std::span<std::byte> out) override;
  void Write(uint64_t offset, std::span<const std::byte> in) override;

  // The line into `pin` (< kPins); lives as long as this.
  irq::InterruptLine* Line(size_t pin) { return &lines_.at(pin); }

  void EndOfInterrupt(uint8_t vector);

 private:
  class PinLine : public irq::InterruptLine {
   public:
    void SetLevel(bool asserted) override { owner->SetPin(pin, asserted); }

    IoApic* owner = nullptr;
    size_t pin = 0;
  };

  void SetPin(size_t pin, bool asserted);
  uint32_t ReadRegister() const;
  void WriteRegister(uint32_t value);
  void Deliver(size_t pin);
  void PublishLevelPins();

  std::mutex mu_;
  const SendFunction send_;
  const LevelPinsFunction level_pins_changed_;
  std::array<PinLine, kPins> lines_;
  // guarded by mu_
  uint8_t select_ = 0;
  uint32_t id_ = 0;
  std::array<uint64_t, kPins> redirection_{};
  std::array<bool, kPins> asserted_{};
};

}  // namespace wyvern::legacy
