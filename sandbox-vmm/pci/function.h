// pci/function.h — a PCI function: configuration space, BARs on the bus, MSI-X. Transports and
// bridges derive from it.
// Spec:    PCI Local Bus 3.0 §6.
// State:   a BAR is on the bus while memory decoding is on and its address lies in one of the
//          windows and on nothing else. The guest may
//          move it at any time; an address that cannot be had leaves it unmapped until the next
//          move.
// Threads: ReadConfig, WriteConfig and BAR accesses from any vCPU thread at once. One mutex per
//          function guards the configuration
//          space; BAR accesses run without it.
// Trust:   offsets, sizes and data are the guest's.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "bus/bus.h"
#include "pci/config_space.h"
#include "pci/msix.h"

namespace wyvern::pci {

struct Window {
  uint64_t start = 0;
  uint64_t size = 0;
};

class Function : public std::enable_shared_from_this<Function> {
 public:
  virtual ~Function();
  Function(const Function&) = delete;
  Function& operator=(const Function&) = delete;

  // 1, 2 or 4 bytes inside one doubleword (PciBus splits what is not). Past 256 bytes: all ones,
  // writes are dropped.
  void ReadConfig(uint16_t offset, std::span<std::byte> out);
  void WriteConfig(uint16_t offset, std::span<const std::byte> in);

  // By PciBus, once, before the guest can see it: where BARs may be mapped, and their first
  // addresses. Both must outlive this.
  void Attach(bus::Bus& mmio, std::span<const Window> windows);
  // By PciBus: takes every BAR off the bus. Accesses that are under way may still arrive.
  // Idempotent.
  void Detach();

  // By PciBus, when another function has left: BARs that found their place taken may have it now. The guest may have been given that place
  // before the one that had it was off the bus.
  void RetryBars();

  struct BarInfo {
    unsigned index = 0;
    uint64_t size = 0;
  };

  std::vector<BarInfo> bars() const;
  // Where a BAR is on the bus now.
  std::optional<uint64_t> mapped(unsigned bar) const;
  void PlaceBar(unsigned bar, uint64_t address);

 protected:
  explicit Function(const Identity& identity);

  // Set-up, before Attach.
  ConfigSpace& set_up() { return config_; }

  // Puts table and PBA into `bar` and the capability into the list. The offsets are multiples of 8
  // and do not overlap.
  void AddMsix(std::unique_ptr<Msix> msix, unsigned bar, uint64_t table_offset,
               uint64_t pba_offset);

  Msix* msix() const { return msix_.get(); }

  // `out` (1, 2, 4 or 8 bytes) is inside the BAR. Never called for the MSI-X table and PBA.
  virtual void ReadBar(unsigned bar, uint64_t offset, std::span<std::byte> out) = 0;
  virtual void WriteBar(unsigned bar, uint64_t offset, std::span<const std::byte> in) = 0;

  // The BAR appeared at an address, or nowhere. Called with the configuration locked: no
  // configuration access from here.
  virtual void OnBarMapped(unsigned /*bar*/, std::optional<uint64_t> /*address*/) {}

  // A window into BARs through configuration space (virtio's PCI configuration access capability):
  // bytes [offset, …) were written, or
  // are about to be read. Called without the lock.
  virtual void BeforeConfigRead(uint16_t /*offset*/, size_t /*length*/) {}

  virtual void AfterConfigWrite(uint16_t /*offset*/, size_t /*length*/) {}

  // For such a window: the access as a vCPU would make it, MSI-X included. `offset` and size are
  // checked here.
  bool AccessBarRead(unsigned bar, uint64_t offset, std::span<std::byte> out);
  bool AccessBarWrite(unsigned bar, uint64_t offset, std::span<const std::byte> in);
  // Raw configuration bytes, for the two hooks above.
  uint32_t PeekConfig32(uint16_t offset);
  void PokeConfig32(uint16_t offset, uint32_t value);

 private:
  class BarDevice;
  void UpdateBars();         // mu_ held
  void UpdateMsixControl();  // mu_ held
  bool InWindow(uint64_t address, uint64_t size) const;

  mutable std::mutex mu_;
  ConfigSpace config_;  // guarded by mu_ after Attach
  bus::Bus* bus_ = nullptr;
  std::vector<Window> windows_;
  std::array<std::optional<uint64_t>, kBars> mapped_{};  // guarded by mu_
  std::unique_ptr<Msix> msix_;
  unsigned msix_bar_ = 0;
  uint64_t msix_table_ = 0;
  uint64_t msix_pba_ = 0;
  uint8_t msix_capability_ = 0;
};

}  // namespace wyvern::pci
