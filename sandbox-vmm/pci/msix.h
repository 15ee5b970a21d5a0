// pci/msix.h — MSI-X table and pending bits of one function.
// Spec:    PCI Local Bus 3.0 §6.8.2 (message control, table, PBA).
// Shape:   one eventfd per vector, which nobody else has, and a second one, with a route of its own,
//          for a vector that another process signals. The router delivers them. A masked vector
//          keeps its signal in the eventfd's counter, which is the pending bit. Routes are taken when
//          a vector is unmasked for the first time, or given to another process.
// Errors:  a router without routes left leaves the vector dead: counted, one limited line.
// Threads: any; one mutex. Signal takes no lock.   Trust: table contents, offsets and access sizes
//          are the guest's.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/event_fd.h"
#include "irq/interrupts.h"

namespace wyvern::pci {

class Msix {
 public:
  static constexpr uint16_t kMaxVectors = 2048;

  // `router` must outlive this. 1..kMaxVectors vectors.
  static Result<std::unique_ptr<Msix>> Create(irq::MsiRouter& router, uint16_t vectors);
  ~Msix();
  Msix(const Msix&) = delete;
  Msix& operator=(const Msix&) = delete;

  uint16_t vectors() const { return static_cast<uint16_t>(events_.size()); }

  uint64_t table_size() const { return uint64_t{16} * events_.size(); }

  uint64_t pba_size() const { return (events_.size() + 63) / 64 * 8; }

  // Aligned accesses of 4 or 8 bytes, as the spec demands of drivers; others read as ones and drop
  // their write.
  // Preconditions: inside the table.
  void ReadTable(uint64_t offset, std::span<std::byte> out) const;
  void WriteTable(uint64_t offset, std::span<const std::byte> in);
  // Any size. Preconditions: inside pba_size() rounded up to 8.
  void ReadPending(uint64_t offset, std::span<std::byte> out) const;

  // The MSI-X enable and function mask bits of message control.
  void SetControl(bool enabled, bool function_masked);

  bool enabled() const { return enabled_.load(std::memory_order_acquire); }

  // Sends vector `vector`; a number outside the table is nothing.
  void Signal(uint16_t vector) const;
  // What another process signals to send the vector, as long as this lives. Never the one that Signal
  // writes to: who shares an eventfd can fill it, and let a write to it block. Invalid outside the
  // table, or when there is no route left.
  FdRef SharedEvent(uint16_t vector);

  // Table as after power-on: all masked. Routes are kept.
  void Reset();

  uint64_t failures() const { return failures_.load(std::memory_order_relaxed); }

 private:
  struct Entry {
    irq::MsiMessage message;
    bool masked = true;
  };

  struct Shared {
    EventFd event;
    irq::MsiRoute route{};
  };

  Msix(irq::MsiRouter& router, std::vector<EventFd> events);
  void CountFailure(const char* what, const Error& error);
  bool EffectiveMask(const Entry& entry) const;
  void Publish(size_t first, size_t count);  // mu_ held

  irq::MsiRouter& router_;
  const std::vector<EventFd> events_;
  mutable std::mutex mu_;
  std::vector<Entry> entries_;                        // guarded by mu_
  std::vector<std::optional<irq::MsiRoute>> routes_;  // guarded by mu_
  std::map<size_t, Shared> shared_;                   // by vector; guarded by mu_
  std::atomic<bool> enabled_{false};
  bool function_masked_ = false;  // guarded by mu_
  std::atomic<uint64_t> failures_{0};
};

}  // namespace wyvern::pci
