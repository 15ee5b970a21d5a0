// pci/pci_bus.h — one PCI segment: bus 0 with 32 slots, and a bus of one function behind each root port; reached through ECAM and, on x86,
// ports 0xcf8/0xcfc.
// Spec:    PCI Express 5.0 §7.2.2 (ECAM); PCI Local Bus 3.0 §3.2.2.3.2 (configuration mechanism
//          #1).
// Shape:   slot 0 is the host bridge; one function per slot, but for the last ones, which are for root ports, eight per slot. A port comes
//          with the first function that finds no slot of its own, and stays. Absent functions read as all ones.
// Threads: configuration accesses from any vCPU thread; Add and Remove from any thread, also while
//          the guest runs (hot-plug: tell the
//          guest to rescan afterwards).
// Trust:   addresses, sizes and data of accesses are the guest's.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "bus/bus.h"
#include "pci/function.h"
#include "pci/place.h"
#include "pci/root_port.h"

namespace wyvern::pci {

struct PciBusOptions {
  // Where BARs may be mapped. The first addresses are taken from the first window that has room.
  std::vector<Window> windows;
  // That the guest can number, 0 among them. Each beyond is for a root port: none, 8 or 16 of them.
  uint16_t buses = 1;
};

class PciBus {
 public:
  static constexpr unsigned kSlots = 32;
  // ECAM takes 1 MiB per bus (PCI Express §7.2.2).
  static constexpr uint64_t kEcamBytesPerBus = uint64_t{1} << 20;
  static constexpr uint64_t kConfigPortBase = 0xcf8;
  static constexpr uint64_t kConfigPortCount = 8;

  // With a host bridge in slot 0. `mmio` must outlive this.
  PciBus(bus::Bus& mmio, PciBusOptions options);
  // Detaches what is left. No vCPU runs any more.
  ~PciBus();
  PciBus(const PciBus&) = delete;
  PciBus& operator=(const PciBus&) = delete;

  // Insert into the MMIO bus (any number of buses × kEcamBytesPerBus) and into the port bus at
  // kConfigPortBase. They live as long as
  // this.
  std::shared_ptr<bus::BusDevice> ecam() const { return ecam_; }

  std::shared_ptr<bus::BusDevice> config_ports() const { return config_ports_; }

  // Puts the function into `slot`, or the lowest free one (1..31), and gives its BARs first addresses (decoding stays off until the guest
  // turns it on); where no slot is left, behind a root port, whose guest gives it addresses. Where it is. RESOURCE_EXHAUSTED,
  // ALREADY_EXISTS, INVALID_ARGUMENT.
  Result<Place> Add(std::shared_ptr<Function> function, std::optional<uint8_t> slot = std::nullopt);
  // What becomes of a place whose function was taken out.
  enum class After : uint8_t {
    kFree,     // another function's, when one is added
    kRetired,  // nobody's: the guest was not told, and would take another function for this one
  };

  // Takes it out; the guest has let go of it, or sees all ones from now on. NOT_FOUND.
  Result<std::shared_ptr<Function>> Remove(Place place, After then = After::kFree);

  // A configuration access as ECAM or the ports make it; any size, any alignment.
  void ReadConfig(uint8_t bus, uint8_t device_function, uint16_t offset, std::span<std::byte> out);
  void WriteConfig(uint8_t bus, uint8_t device_function, uint16_t offset,
                   std::span<const std::byte> in);

 private:
  class Ecam;
  class Ports;

  // Behind a port: the guest gives BARs their first addresses.
  struct Port {
    std::shared_ptr<RootPort> port;  // null: never needed yet
    std::shared_ptr<Function> behind;
    bool retired = false;
  };

  static constexpr unsigned kPortsPerSlot = 8;

  // mu_ held:
  std::optional<uint64_t> FreeAddress(uint64_t size) const;
  bool IsFree(uint8_t slot) const;
  std::optional<uint8_t> FreeSlot() const;
  Result<Place> AddBehindPort(std::shared_ptr<Function> function);
  Port* FindPort(Place place);

  std::shared_ptr<Function> Target(uint8_t bus, uint8_t device_function) const;

  bus::Bus& mmio_;
  const PciBusOptions options_;
  const uint8_t port_slots_;  // the last ones
  mutable std::mutex mu_;
  std::array<std::shared_ptr<Function>, kSlots> slots_;  // guarded by mu_
  std::array<bool, kSlots> retired_{};                   // guarded by mu_
  std::array<std::vector<Window>, kSlots> placed_;  // guarded by mu_; first addresses given out
  std::vector<Port> ports_;                         // guarded by mu_
  std::shared_ptr<bus::BusDevice> ecam_;
  std::shared_ptr<bus::BusDevice> config_ports_;
};

}  // namespace wyvern::pci
