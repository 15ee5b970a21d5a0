// transport/msix_interrupt.h — virtio::Interrupt over MSI-X vectors; private to PciTransport.
// Spec:    VIRTIO 1.4 §4.1.4.5 (ISR), §4.1.5.1.2 (vectors), §4.1.5.3, §4.1.5.4.
// Threads: any; no locks, but in QueueCallFd and SetQueueVector.
#pragma once

#include <atomic>
#include <vector>

#include "pci/msix.h"
#include "transport/pci_transport.h"
#include "transport/virtio_pci_layout.h"

namespace wyvern::transport {

class PciTransport::MsixInterrupt final : public virtio::Interrupt {
 public:
  MsixInterrupt(pci::Msix& msix, size_t queues) : msix_(msix), queue_vectors_(queues) { Reset(); }

  void SignalQueue(uint16_t index) override {
    if (msix_.enabled()) {
      msix_.Signal(queue_vector(index));
    } else {
      isr_.fetch_or(kIsrQueue, std::memory_order_acq_rel);
    }
  }

  void SignalConfig() override {
    isr_.fetch_or(kIsrConfig, std::memory_order_acq_rel);  // with MSI-X too: §4.1.4.5.1
    if (msix_.enabled()) {
      msix_.Signal(config_vector());
    }
  }

  // The first time for a vector it has to be routed, which not every thread of ours may do: from whoever
  // starts a queue, or in SetQueueVector.
  FdRef QueueCallFd(uint16_t index) override {
    shared_.store(true, std::memory_order_relaxed);
    return msix_.SharedEvent(queue_vector(index));
  }

  uint16_t queue_vector(uint16_t index) const {
    return index < queue_vectors_.size() ? queue_vectors_[index].load(std::memory_order_acquire)
                                         : kNoVector;
  }

  uint16_t config_vector() const { return config_vector_.load(std::memory_order_acquire); }

  // A vector that does not exist becomes NO_VECTOR: the driver reads back and sees.
  void SetQueueVector(uint16_t index, uint16_t vector) {
    if (index < queue_vectors_.size()) {
      queue_vectors_[index].store(Valid(vector), std::memory_order_release);
      if (shared_.load(std::memory_order_relaxed)) {
        (void)msix_.SharedEvent(vector);  // a vCPU's thread may
      }
    }
  }

  void SetConfigVector(uint16_t vector) {
    config_vector_.store(Valid(vector), std::memory_order_release);
  }

  // Reading clears.
  uint8_t TakeIsr() { return isr_.exchange(0, std::memory_order_acq_rel); }

  void Reset() {
    for (auto& vector : queue_vectors_) {
      vector.store(kNoVector, std::memory_order_release);
    }
    config_vector_.store(kNoVector, std::memory_order_release);
    isr_.store(0, std::memory_order_release);
  }

 private:
  static constexpr uint8_t kIsrQueue = 1;
  static constexpr uint8_t kIsrConfig = 2;

  uint16_t Valid(uint16_t vector) const { return vector < msix_.vectors() ? vector : kNoVector; }

  pci::Msix& msix_;
  std::vector<std::atomic<uint16_t>> queue_vectors_;
  std::atomic<uint16_t> config_vector_{kNoVector};
  std::atomic<uint8_t> isr_{0};
  std::atomic<bool> shared_{false};  // another process signals queues
};

}  // namespace wyvern::transport
