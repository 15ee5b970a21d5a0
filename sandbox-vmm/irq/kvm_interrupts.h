// irq/kvm_interrupts.h — MsiRouter and DoorbellRegistry on KVM: irqfd + GSI routing, ioeventfd.
// Spec:    Linux Documentation/virt/kvm/api.rst (KVM_SET_GSI_ROUTING, KVM_IRQFD, KVM_IOEVENTFD, KVM_SIGNAL_MSI).
// Shape:   GSIs below `first_gsi` belong to the interrupt controller's pins. One KVM_SET_GSI_ROUTING per Update, however many routes.
// Threads: any; one mutex around the table.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "irq/interrupts.h"
#include "kvm/vm.h"

namespace wyvern::irq {

class KvmMsiRouter : public MsiRouter {
 public:
  // `vm` must outlive this. At most `capacity` routes (KVM's own limit is 4096 minus the pins).
  KvmMsiRouter(const kvm::Vm* vm, uint32_t first_gsi, uint32_t capacity);
  ~KvmMsiRouter() override;
  KvmMsiRouter(const KvmMsiRouter&) = delete;
  KvmMsiRouter& operator=(const KvmMsiRouter&) = delete;

  using MsiRouter::Update;
  Result<MsiRoute> Allocate(const EventFd& event) override;
  Result<> Update(std::span<const MsiUpdate> updates) override;
  void Release(MsiRoute route) override;
  Result<> Send(MsiMessage message) override;

  // Pins of a userspace IOAPIC: KVM learns from their routes which vectors need an EOI exit. `messages[i]` is pin i; nothing: masked.
  // Fewer than `first_gsi` pins.
  Result<> SetPins(std::span<const std::optional<MsiMessage>> messages);

 private:
  struct Entry {
    std::optional<EventFd> event;  // set while the route is allocated
    MsiMessage message;
    bool masked = true;
  };

  Result<> WriteTable();  // mu_ held
  Entry* Find(MsiRoute route);

  const kvm::Vm* vm_;
  const uint32_t first_gsi_;
  std::mutex mu_;
  std::vector<Entry> entries_;                   // guarded by mu_
  std::vector<std::optional<MsiMessage>> pins_;  // guarded by mu_
  std::vector<uint32_t> unmasking_;              // guarded by mu_; scratch of Update
  std::vector<std::byte> buffer_;                // struct kvm_irq_routing of full size, made once
};

class KvmDoorbells : public DoorbellRegistry {
 public:
  explicit KvmDoorbells(const kvm::Vm* vm) : vm_(vm) {}

  Result<> AssignIoeventfd(const Doorbell& doorbell, const EventFd& event) override;
  Result<> RemoveIoeventfd(const Doorbell& doorbell, const EventFd& event) override;

 private:
  const kvm::Vm* vm_;
};

}  // namespace wyvern::irq
