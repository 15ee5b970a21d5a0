// pci/root_port.h — a PCI Express root port: the bridge from bus 0 to a bus with one function.
// Spec:    PCI-to-PCI Bridge 1.2 §3.2 (type 1 header); PCI Express 5.0 §7.5.1.3, §7.5.3 (capability).
// Shape:   one memory window, none for I/O or prefetchable memory: no function of ours has either. No slot registers and no interrupt: who
//          adds a function behind it tells the guest to rescan, and a guest's own hot-plug driver (pciehp) must not do it, too. The link is
//          always up.
// State:   the guest numbers the bus behind it; before that, nothing there can be reached. Window and secondary bus reset are registers
//          without effect: a function's BARs are held to the windows of the host bridge, and to places that no other has (PciBus).
// Trust:   every register is the guest's: two ports may claim one number, or any number at all.
#pragma once

#include "pci/function.h"

namespace wyvern::pci {

class RootPort final : public Function {
 public:
  // `number`: the port's, for the guest's information.
  explicit RootPort(uint8_t number);

  // The bus behind it; 0: it has no number.
  uint8_t secondary_bus();

 protected:
  void ReadBar(unsigned bar, uint64_t offset, std::span<std::byte> out) override;

  void WriteBar(unsigned /*bar*/, uint64_t /*offset*/, std::span<const std::byte> /*in*/) override {
  }
};

}  // namespace wyvern::pci
