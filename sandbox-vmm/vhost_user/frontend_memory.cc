// What a front-end tells its back-end of the guest's memory.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "vhost_user/frontend.h"

namespace wyvern::vhost_user {

Result<> Frontend::AddSlots(std::span<const SharedRegion> regions) {
  for (const SharedRegion& region : regions) {
    const FdRef fd[] = {region.fd};
    WV_TRY_VOID(channel_->SetValue(Request::kAddMemReg, SingleRegion{0, region.ToWire()}, fd));
    const auto at =
        std::ranges::lower_bound(slots_, region.guest_address, {}, &SharedRegion::guest_address);
    slots_.insert(at, region);
  }
  return {};
}

Result<> Frontend::RemoveSlots(std::span<const SharedRegion> regions) {
  for (const SharedRegion& region : regions) {
    WV_TRY_VOID(channel_->SetValue(Request::kRemMemReg, SingleRegion{0, region.ToWire()}));
    std::erase_if(slots_, [&](const SharedRegion& slot) {
      return slot.guest_address == region.guest_address;
    });
  }
  return {};
}

// These instead of all that it has.
Result<> Frontend::SendTable(std::span<const SharedRegion> regions) {
  MemoryTable table;
  std::vector<FdRef> fds;
  for (const SharedRegion& region : regions) {
    table.regions[table.count++] = region.ToWire();
    fds.push_back(region.fd);
  }
  const size_t size = 8 + table.count * sizeof(MemoryRegion);
  slots_.clear();
  WV_TRY_VOID(
      channel_->Set(Request::kSetMemTable, std::as_bytes(std::span(&table, 1)).first(size), fds));
  slots_.assign(regions.begin(), regions.end());
  return {};
}

Result<size_t> Frontend::MaxSlots() {
  if ((protocol_features_ & kProtocolConfigureMemSlots) == 0) {
    return kMaxTableRegions;
  }
  if (!max_slots_) {
    WV_TRY(const uint64_t slots, channel_->Get<uint64_t>(Request::kGetMaxMemSlots));
    max_slots_ = static_cast<size_t>(slots);
  }
  return *max_slots_;
}

Result<> Frontend::SendMemory(const mem::GuestMemory& memory) {
  WV_TRY(const auto shown, SharedRegions(memory, options_.share_read_only_memory));
  if (shown.empty()) {
    return Fail(Code::kFailedPrecondition,
                "guest memory is private: a vhost-user device needs it shared (memfd)");
  }
  if (shown.size() <= kMaxTableRegions) {
    return SendTable(shown);
  }
  WV_TRY(const size_t slots, MaxSlots());
  if (slots < shown.size()) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("the back-end takes {} memory regions, not {}", slots, shown.size()));
  }
  const SharedChanges changes = Compare(slots_, shown);
  if (changes.kept.empty() || changes.kept.size() + changes.missing.size() > slots) {
    // A table first: whatever the back-end has (some drop it by a reset), it has just that now.
    WV_TRY_VOID(SendTable(std::span(shown).first(kMaxTableRegions)));
    return AddSlots(std::span(shown).subspan(kMaxTableRegions));
  }
  // What it has already stays, for rings run there.
  WV_TRY_VOID(RemoveSlots(changes.stale));
  return AddSlots(changes.missing);
}

// Only what the back-end lacks, by itself: to join it with what it has would take that away for a
// moment, under rings that run. Joined it is when slots run out, or by the next stop.
Result<bool> Frontend::SendGrowth(const mem::GuestMemory& memory) {
  WV_TRY(const auto shown, SharedRegions(memory, options_.share_read_only_memory));
  const SharedChanges changes = Compare(slots_, shown);
  if (changes.missing.empty() && changes.stale.empty()) {
    return true;
  }
  if ((protocol_features_ & kProtocolConfigureMemSlots) == 0 || !changes.stale.empty()) {
    return false;
  }
  WV_TRY(const size_t slots, MaxSlots());
  if (changes.kept.size() + changes.missing.size() > slots) {
    return false;
  }
  WV_TRY_VOID(AddSlots(changes.missing));
  return true;
}

bool Frontend::TakesMemory(const mem::GuestMemory& memory) {
  const std::lock_guard lock(control_);
  const auto shown = SharedRegions(memory, options_.share_read_only_memory);
  if (!shown) {
    return false;
  }
  if (shown->size() <= kMaxTableRegions) {
    return true;  // a table, which every back-end takes
  }
  const auto slots = MaxSlots();
  // A back-end that is lost says nothing, and is not to stand in the way.
  return !slots || shown->size() <= *slots;
}

bool Frontend::MemoryGrew(const std::shared_ptr<const mem::GuestMemory>& memory) {
  const std::lock_guard lock(control_);
  // Before the first queue, and without a back-end, there is nobody to tell.
  if (memory_ != nullptr && !lost()) {
    auto sent = SendGrowth(*memory);
    if (!sent) {
      WV_WARN("{}: added memory: {}", options_.name, sent.error().message());
    }
    if (!sent || !*sent) {
      return false;
    }
    memory_ = memory;
  }
  for (Queue& queue : queues_) {
    if (queue.running) {
      queue.resources.memory = memory;
    }
  }
  return true;
}

}  // namespace wyvern::vhost_user
