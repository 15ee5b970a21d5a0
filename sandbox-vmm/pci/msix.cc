#include "pci/msix.h"

#include <poll.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/endian.h"
#include "base/log.h"

namespace wyvern::pci {

namespace {

constexpr uint32_t kVectorMasked = 1;

struct WireEntry {
  Le32 address_low;
  Le32 address_high;
  Le32 data;
  Le32 control;
};

bool Aligned(uint64_t offset, size_t size) {
  return (size == 4 || size == 8) && offset % size == 0;
}

bool Readable(const EventFd& event) {
  pollfd poll_fd{.fd = event.fd().get(), .events = POLLIN, .revents = 0};
  return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLIN) != 0;
}

}  // namespace

Result<std::unique_ptr<Msix>> Msix::Create(irq::MsiRouter& router, uint16_t vectors) {
  WV_CHECK(vectors >= 1 && vectors <= kMaxVectors);
  std::vector<EventFd> events;
  for (uint16_t i = 0; i < vectors; ++i) {
    WV_TRY(EventFd event, EventFd::Create());
    events.push_back(std::move(event));
  }
  return std::unique_ptr<Msix>(new Msix(router, std::move(events)));
}

Msix::Msix(irq::MsiRouter& router, std::vector<EventFd> events)
    : router_(router),
      events_(std::move(events)),
      entries_(events_.size()),
      routes_(events_.size()) {}

Msix::~Msix() {
  for (const auto& route : routes_) {
    if (route) {
      router_.Release(*route);
    }
  }
  for (const auto& [vector, shared] : shared_) {
    router_.Release(shared.route);
  }
}

void Msix::CountFailure(const char* what, const Error& error) {
  failures_.fetch_add(1, std::memory_order_relaxed);
  WV_WARN_LIMITED("pci: {}: {}", what, error.message());
}

void Msix::ReadTable(uint64_t offset, std::span<std::byte> out) const {
  WV_CHECK(out.size() <= table_size() && offset <= table_size() - out.size());
  if (!Aligned(offset, out.size())) {
    std::ranges::fill(out, std::byte{0xff});
    return;
  }
  WireEntry wire;
  {
    const std::lock_guard lock(mu_);
    const Entry& entry = entries_[offset / 16];
    wire.address_low = static_cast<uint32_t>(entry.message.address);
    wire.address_high = static_cast<uint32_t>(entry.message.address >> 32U);
    wire.data = entry.message.data;
    wire.control = entry.masked ? kVectorMasked : 0;
  }
  std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&wire) + offset % 16, out.size());
}

void Msix::WriteTable(uint64_t offset, std::span<const std::byte> in) {
  WV_CHECK(in.size() <= table_size() && offset <= table_size() - in.size());
  if (!Aligned(offset, in.size())) {
    return;
  }
  const std::lock_guard lock(mu_);
  const size_t index = offset / 16;
  Entry& entry = entries_[index];
  const bool was_masked = EffectiveMask(entry);
  for (size_t i = 0; i < in.size(); i += 4) {
    Le32 word;
    std::memcpy(&word, &in[i], 4);
    const uint64_t value = word.value();
    switch ((offset + i) % 16) {
      case 0:
        entry.message.address = (entry.message.address & ~uint64_t{0xffffffff}) | value;
        break;
      case 4:
        entry.message.address = (entry.message.address & 0xffffffff) | value << 32U;
        break;
      case 8:
        entry.message.data = static_cast<uint32_t>(value);
        break;
      default:
        entry.masked = (value & kVectorMasked) != 0;
        break;
    }
  }
  // A masked entry's message matters only once it is unmasked.
  if (!was_masked || !EffectiveMask(entry)) {
    Publish(index, 1);
  }
}

void Msix::ReadPending(uint64_t offset, std::span<std::byte> out) const {
  const std::lock_guard lock(mu_);
  for (size_t i = 0; i < out.size(); ++i) {
    unsigned bits = 0;
    for (size_t bit = 0; bit < 8; ++bit) {
      const size_t vector = (offset + i) * 8 + bit;
      if (vector >= events_.size()) {
        break;
      }
      const auto shared = shared_.find(vector);
      if (Readable(events_[vector]) ||
          (shared != shared_.end() && Readable(shared->second.event))) {
        bits |= 1U << bit;
      }
    }
    out[i] = static_cast<std::byte>(bits);
  }
}

void Msix::SetControl(bool enabled, bool function_masked) {
  const std::lock_guard lock(mu_);
  if (enabled_.load(std::memory_order_relaxed) == enabled && function_masked_ == function_masked) {
    return;
  }
  enabled_.store(enabled, std::memory_order_release);
  function_masked_ = function_masked;
  Publish(0, entries_.size());
}

void Msix::Signal(uint16_t vector) const {
  if (vector < events_.size()) {
    events_[vector].Signal();
  }
}

FdRef Msix::SharedEvent(uint16_t vector) {
  if (vector >= events_.size()) {
    return FdRef(-1);
  }
  const std::lock_guard lock(mu_);
  if (const auto known = shared_.find(vector); known != shared_.end()) {
    return known->second.event.fd();
  }
  auto event = EventFd::Create();
  if (!event) {
    CountFailure("no eventfd for another process", event.error());
    return FdRef(-1);
  }
  const auto route = router_.Allocate(*event);
  if (!route) {
    CountFailure("no interrupt route for another process", route.error());
    return FdRef(-1);
  }
  const auto added = shared_.emplace(vector, Shared{*std::move(event), *route}).first;
  Publish(vector, 1);
  return added->second.event.fd();
}

void Msix::Reset() {
  const std::lock_guard lock(mu_);
  std::ranges::fill(entries_, Entry{});
  enabled_.store(false, std::memory_order_release);
  function_masked_ = false;
  Publish(0, entries_.size());
}

bool Msix::EffectiveMask(const Entry& entry) const {
  return entry.masked || function_masked_ || !enabled_.load(std::memory_order_relaxed);
}

void Msix::Publish(size_t first, size_t count) {
  std::vector<irq::MsiUpdate> updates;
  for (size_t i = first; i < first + count; ++i) {
    const bool masked = EffectiveMask(entries_[i]);
    auto& known = routes_[i];
    if (!known.has_value() && !masked) {
      auto route = router_.Allocate(events_[i]);
      if (route) {
        known = *route;
      } else {
        CountFailure("no interrupt route for a vector", route.error());
      }
    }
    if (known.has_value()) {
      updates.push_back({.route = *known, .message = entries_[i].message, .masked = masked});
    }
  }
  for (auto it = shared_.lower_bound(first); it != shared_.end() && it->first < first + count;
       ++it) {
    const Entry& entry = entries_[it->first];
    updates.push_back(
        {.route = it->second.route, .message = entry.message, .masked = EffectiveMask(entry)});
  }
  if (updates.empty()) {
    return;
  }
  if (auto updated = router_.Update(std::span<const irq::MsiUpdate>(updates)); !updated) {
    CountFailure("interrupt routes not updated", updated.error());
  }
}

}  // namespace wyvern::pci
