#include "irq/kvm_interrupts.h"

#include <linux/kvm.h>

#include <cstring>
#include <new>
#include <utility>

#include "base/check.h"
#include "kvm/ioctl.h"

namespace wyvern::irq {

namespace {

constexpr unsigned long kSetGsiRouting = _IOW(KVMIO, 0x6a, kvm::CountedHeader);
static_assert(sizeof(kvm_irq_routing_entry) == 48);

kvm_irq_routing_entry MsiEntry(uint32_t gsi, MsiMessage message) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_MSI;
  entry.u.msi.address_lo = static_cast<uint32_t>(message.address);
  entry.u.msi.address_hi = static_cast<uint32_t>(message.address >> 32U);
  entry.u.msi.data = message.data;
  return entry;
}

bool Same(MsiMessage a, MsiMessage b) {
  return a.address == b.address && a.data == b.data;
}

}  // namespace

KvmMsiRouter::KvmMsiRouter(const kvm::Vm* vm, uint32_t first_gsi, uint32_t capacity)
    : vm_(vm), first_gsi_(first_gsi), entries_(capacity), pins_(first_gsi) {
  buffer_.resize(sizeof(kvm::CountedHeader) +
                 (size_t{first_gsi} + capacity) * sizeof(kvm_irq_routing_entry));
}

KvmMsiRouter::~KvmMsiRouter() = default;

KvmMsiRouter::Entry* KvmMsiRouter::Find(MsiRoute route) {
  const auto gsi = static_cast<uint32_t>(route);
  if (gsi < first_gsi_ || gsi - first_gsi_ >= entries_.size() ||
      !entries_[gsi - first_gsi_].event) {
    return nullptr;
  }
  return &entries_[gsi - first_gsi_];
}

Result<MsiRoute> KvmMsiRouter::Allocate(const EventFd& event) {
  const std::lock_guard lock(mu_);
  for (uint32_t i = 0; i < entries_.size(); ++i) {
    if (!entries_[i].event) {
      WV_TRY(EventFd duplicate, event.Duplicate());
      entries_[i].event.emplace(std::move(duplicate));
      entries_[i].message = {};
      entries_[i].masked = true;
      return MsiRoute{first_gsi_ + i};
    }
  }
  return Fail(Code::kResourceExhausted, "no interrupt route left: too many device vectors");
}

Result<> KvmMsiRouter::WriteTable() {
  auto* table = reinterpret_cast<kvm::CountedHeader*>(buffer_.data());
  auto* entries =
      reinterpret_cast<kvm_irq_routing_entry*>(buffer_.data() + sizeof(kvm::CountedHeader));
  table->count = 0;
  table->reserved = 0;
  for (uint32_t pin = 0; pin < pins_.size(); ++pin) {
    if (const std::optional<MsiMessage>& message = pins_[pin]) {
      entries[table->count++] = MsiEntry(pin, *message);
    }
  }
  for (uint32_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].event && !entries_[i].masked) {
      entries[table->count++] = MsiEntry(first_gsi_ + i, entries_[i].message);
    }
  }
  return vm_->Call(kSetGsiRouting, table, "ioctl(KVM_SET_GSI_ROUTING)");
}

Result<> KvmMsiRouter::Update(std::span<const MsiUpdate> updates) {
  const std::lock_guard lock(mu_);
  bool table_changed = false;
  // Masked first: a route must not deliver its old message once it is masked.
  for (const MsiUpdate& update : updates) {
    Entry* entry = Find(update.route);
    WV_CHECK(entry != nullptr);
    if (update.masked && !entry->masked) {
      const auto gsi = static_cast<uint32_t>(update.route);
      WV_TRY_VOID(vm_->SetIrqfd(*entry->event, gsi, false));
      entry->masked = true;
      table_changed = true;
    }
    if (!update.masked && !entry->masked && !Same(entry->message, update.message)) {
      table_changed = true;
    }
    entry->message = update.message;
    table_changed = table_changed || (!update.masked && entry->masked);
  }
  if (!table_changed) {
    return {};
  }
  // Entries that are about to be unmasked must be in the table before their irqfd exists.
  unmasking_.clear();
  for (const MsiUpdate& update : updates) {
    Entry* entry = Find(update.route);
    if (!update.masked && entry->masked) {
      entry->masked = false;
      unmasking_.push_back(static_cast<uint32_t>(update.route));
    }
  }
  Result<> result = WriteTable();
  for (const uint32_t gsi : unmasking_) {
    Entry& entry = entries_[gsi - first_gsi_];
    if (result) {
      result = vm_->SetIrqfd(*entry.event, gsi, true);
    }
    // Without its irqfd it is masked still: the next update tries again.
    entry.masked = !result;
  }
  return result;
}

void KvmMsiRouter::Release(MsiRoute route) {
  const std::lock_guard lock(mu_);
  Entry* entry = Find(route);
  WV_CHECK(entry != nullptr);
  if (!entry->masked && entry->event) {
    // Cannot fail for an irqfd that is there.
    (void)vm_->SetIrqfd(*entry->event, static_cast<uint32_t>(route), false);
  }
  entry->event.reset();
  entry->masked = true;
}

Result<> KvmMsiRouter::Send(MsiMessage message) {
  kvm_msi request{};
  request.address_lo = static_cast<uint32_t>(message.address);
  request.address_hi = static_cast<uint32_t>(message.address >> 32U);
  request.data = message.data;
  return vm_->Call(KVM_SIGNAL_MSI, &request, "ioctl(KVM_SIGNAL_MSI)");
}

Result<> KvmMsiRouter::SetPins(std::span<const std::optional<MsiMessage>> messages) {
  const std::lock_guard lock(mu_);
  WV_CHECK(messages.size() <= pins_.size());
  bool changed = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::optional<MsiMessage>& before = pins_[i];
    const std::optional<MsiMessage>& after = messages[i];
    changed = changed || before.has_value() != after.has_value() ||
              (before && after && !Same(*before, *after));
    pins_[i] = after;
  }
  return changed ? WriteTable() : Result<>{};
}

Result<> KvmDoorbells::AssignIoeventfd(const Doorbell& doorbell, const EventFd& event) {
  return vm_->SetIoeventfd(event, mem::Raw(doorbell.address), doorbell.length, doorbell.match,
                           true);
}

Result<> KvmDoorbells::RemoveIoeventfd(const Doorbell& doorbell, const EventFd& event) {
  return vm_->SetIoeventfd(event, mem::Raw(doorbell.address), doorbell.length, doorbell.match,
                           false);
}

}  // namespace wyvern::irq
