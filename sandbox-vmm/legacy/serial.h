// legacy/serial.h — a 16550A UART: the console.
// Spec:    PC16550D data sheet (registers); eight ports.
// Shape:   transmits at once: the transmitter is always empty. Received bytes wait in a FIFO of 16.
// Errors:  none; what the guest does wrong has no effect.
// Threads: any; one mutex. The sink is called on a vCPU thread, without the mutex's protection for anything else, and must not block.
// Trust:   every register write is the guest's. Nothing grows with what it writes.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>

#include "bus/bus.h"
#include "irq/interrupts.h"

namespace wyvern::legacy {

class Serial : public bus::BusDevice {
 public:
  using Sink = std::function<void(std::span<const std::byte>)>;

  static constexpr uint64_t kPorts = 8;
  static constexpr size_t kFifoSize = 16;

  // `line` must outlive this.
  Serial(irq::InterruptLine* line, Sink sink);
  ~Serial() override;
  Serial(const Serial&) = delete;
  Serial& operator=(const Serial&) = delete;

  void Read(uint64_t offset, std::span<std::byte> out) override;
  void Write(uint64_t offset, std::span<const std::byte> in) override;

  // Bytes typed at the console; returns how many fit in the FIFO.
  size_t Receive(std::span<const std::byte> bytes);

 private:
  uint8_t ReadRegister(uint64_t offset);
  void WriteRegister(uint64_t offset, uint8_t value);
  void Transmit(uint8_t value);
  void PushReceived(uint8_t value);
  uint8_t PendingCause() const;  // IIR without the FIFO bits
  void UpdateLine();

  std::mutex mu_;
  irq::InterruptLine* const line_;
  const Sink sink_;
  // guarded by mu_
  uint8_t interrupt_enable_ = 0;
  uint8_t line_control_ = 0;
  uint8_t modem_control_ = 0;
  uint8_t scratch_ = 0;
  uint16_t divisor_ = 12;  // 9600 baud
  bool fifo_enabled_ = false;
  bool overrun_ = false;
  bool transmit_pending_ = false;  // "transmitter empty" not yet acknowledged
  std::array<uint8_t, kFifoSize> fifo_{};
  size_t fifo_head_ = 0;
  size_t fifo_count_ = 0;
};

}  // namespace wyvern::legacy
