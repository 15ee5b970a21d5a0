// transport/mmio_interrupt.h — virtio::Interrupt over InterruptStatus and one line; private to
// MmioTransport.
// Spec:    VIRTIO 1.4 §4.2.2.1, §4.2.3.4.
// State:   the line is asserted while a bit of InterruptStatus is set.
// Threads: any; one mutex, so that an acknowledgement cannot lower the line under a new event. It is
//          held while the line is driven, and nothing else is taken inside it.
#pragma once

#include <mutex>

#include "transport/mmio_transport.h"
#include "transport/virtio_mmio_layout.h"

namespace wyvern::transport {

class MmioTransport::LineInterrupt final : public virtio::Interrupt {
 public:
  explicit LineInterrupt(irq::InterruptLine& line) : line_(line) {}

  void SignalQueue(uint16_t /*index*/) override { Raise(kMmioUsedBuffer); }

  void SignalConfig() override { Raise(kMmioConfigChange); }

  // None: InterruptStatus must be set first, which no other process can do.
  FdRef QueueCallFd(uint16_t /*index*/) override { return FdRef(-1); }

  uint32_t status() const {
    const std::lock_guard lock(mu_);
    return status_;
  }

  void Acknowledge(uint32_t events) {
    const std::lock_guard lock(mu_);
    const bool asserted = status_ != 0;
    status_ &= ~events;
    if (asserted && status_ == 0) {
      line_.SetLevel(false);
    }
  }

  void Reset() { Acknowledge(~uint32_t{0}); }

 private:
  // Also when the bit is set already: on an edge-triggered line each event is an edge.
  void Raise(uint32_t event) {
    const std::lock_guard lock(mu_);
    status_ |= event;
    line_.SetLevel(true);
  }

  irq::InterruptLine& line_;
  mutable std::mutex mu_;
  uint32_t status_ = 0;  // guarded by mu_
};

}  // namespace wyvern::transport
