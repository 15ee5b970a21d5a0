// machine/window_slot.h — the memslot of a device's shared-memory window: it is where the guest puts the BAR.
// Errors:  a place that KVM refuses leaves the window nowhere, until the BAR is moved again; the guest reads zeros there.
// Threads: any: vCPU threads move BARs. They need KVM_SET_USER_MEMORY_REGION.
// Trust:   addresses are the guest's; the PCI bus has kept them in its windows, apart from other BARs.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "kvm/vm.h"
#include "mem/file_window.h"
#include "mem/guest_memory.h"

namespace wyvern::machine {

class WindowSlot {
 public:
  // `vm` outlives this; nobody else uses `slot`.
  WindowSlot(const kvm::Vm& vm, uint32_t slot, std::shared_ptr<const mem::FileWindow> window);
  // KVM lets go of the window before its addresses become something else.
  ~WindowSlot();
  WindowSlot(const WindowSlot&) = delete;
  WindowSlot& operator=(const WindowSlot&) = delete;

  // Nothing: nowhere. When it returns no vCPU uses the old place.
  void Place(std::optional<mem::Gpa> address);
  // Nowhere, whatever the guest does with its BAR from now on; `window` is let go of. False: KVM keeps the memslot, and so does this.
  bool Close();

 private:
  const kvm::Vm& vm_;
  const uint32_t slot_;
  std::mutex mu_;
  std::shared_ptr<const mem::FileWindow> window_;  // guarded by mu_; null: closed
  bool placed_ = false;                            // guarded by mu_
};

}  // namespace wyvern::machine
