#include "hotplug/device_set.h"

#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/log.h"

namespace wyvern::hotplug {

namespace {

using agent::v1::DeviceIdentity;

// For the guest to let go of what it did not take up, or to take up again what it did not let go of.
constexpr std::chrono::seconds kRollBackTime(1);

// Through one of these the upcall itself may go.
bool MayCarryUpcall(const DeviceIdentity& identity) {
  return identity.has_vsock() || identity.has_console();
}

// After another code the guest has said that it did nothing.
bool OutcomeIsUnknown(Code code) {
  return code == Code::kDeadlineExceeded || code == Code::kUnavailable ||
         code == Code::kCancelled || code == Code::kDataLoss;
}

}  // namespace

Result<> DeviceSet::Boot(const std::function<Result<>()>& boot) {
  const std::lock_guard plug(plug_mu_);
  WV_TRY_VOID(boot());
  const std::lock_guard lock(mu_);
  guest_runs_ = true;
  return {};
}

Result<Attached> DeviceSet::Attach(const std::string& id, const DeviceIdentity& identity,
                                   const Make& make, Time deadline) {
  {
    const std::lock_guard lock(mu_);
    const auto [entry, added] = entries_.try_emplace(id);
    if (!added) {
      return Fail(Code::kAlreadyExists, "a device " + id + " is already here");
    }
    entry->second.identity = identity;
  }
  auto attached = Plug(id, make, deadline);
  {
    const std::lock_guard lock(mu_);
    if (attached) {
      At(id).state = State::kThere;
      ++counters_["attached"];
    } else if (At(id).address.empty()) {
      entries_.erase(id);
      ++counters_["attach_failures"];
    } else {
      // It could not be taken off the bus: as long as it is there, it is in the list.
      At(id).state = State::kThere;
      ++counters_["attach_failures"];
    }
  }
  changed_.notify_all();
  if (!attached) {
    return tl::unexpected(std::move(attached).error().WithContext("device " + id));
  }
  return attached;
}

Result<Attached> DeviceSet::Plug(const std::string& id, const Make& make, Time deadline) {
  Entry* entry = nullptr;
  {
    const std::lock_guard lock(mu_);
    entry = &At(id);
  }
  while (entry->address.empty()) {
    WV_TRY_VOID(Settle(deadline));
    const std::lock_guard plug(plug_mu_);
    {
      const std::lock_guard lock(mu_);
      if (!unsettled_.empty()) {
        continue;
      }
    }
    WV_TRY_VOID(MakeAndAdd(*entry, make));
    if (!guest_runs_) {
      return Attached{.address = entry->address, .pci_address = entry->address, .node = ""};
    }
  }
  auto seen = upcall_.PciRescan(entry->address, entry->identity, deadline);
  if (!seen) {
    RollBack(id);
    return tl::unexpected(std::move(seen).error());
  }
  return Attached{.address = entry->address,
                  .pci_address = seen->pci_address(),
                  .node = seen->node(),
                  .major = seen->major(),
                  .minor = seen->minor()};
}

Result<> DeviceSet::MakeAndAdd(Entry& entry, const Make& make) {
  WV_TRY(NewDevice made, make());
  virtio::VirtioDevice* const device = made.device.get();
  auto address = bus_.Add(std::move(made.device), std::move(made.window));
  if (!address) {
    if (made.release) {
      made.release();
    }
    return tl::unexpected(std::move(address).error());
  }
  const std::lock_guard lock(mu_);
  entry.address = *std::move(address);
  entry.device = device;
  entry.release = std::move(made.release);
  if (made.identity) {
    entry.identity = *std::move(made.identity);
  }
  return {};
}

Result<> DeviceSet::Settle(Time deadline) {
  const Turn::Taken turn(settle_, deadline);
  if (!turn) {
    return Fail(Code::kDeadlineExceeded,
                "another change waits for the guest to let go of devices that are gone");
  }
  std::set<std::string> addresses;
  {
    const std::lock_guard lock(mu_);
    addresses = unsettled_;
  }
  // Nothing is put at these addresses meanwhile, since nothing is put anywhere while there are any.
  for (const std::string& address : addresses) {
    WV_TRY_VOID_CONTEXT(upcall_.PciRemove(address, true, deadline),
                        "the guest must first let go of the device that was at " + address);
    const std::lock_guard plug(plug_mu_);
    if (auto removed = bus_.Remove(address); !removed) {
      WV_INFO("{} is not used again: {}", address, removed.error().message());
    }
    const std::lock_guard lock(mu_);
    unsettled_.erase(address);
  }
  return {};
}

void DeviceSet::RollBack(const std::string& id) {
  Entry* entry = nullptr;
  {
    const std::lock_guard lock(mu_);
    entry = &At(id);
  }
  const auto removed = upcall_.PciRemove(entry->address, true, Clock::now() + kRollBackTime);
  if (auto unplugged = Unplug(*entry, removed.has_value()); !unplugged) {
    WV_ERROR("device {} stays on the bus: {}", id, unplugged.error().DebugString());
    return;
  }
  Count("rolled_back");
}

Result<> DeviceSet::Unplug(Entry& entry, bool told) {
  const std::lock_guard plug(plug_mu_);
  virtio::VirtioDevice* device = nullptr;
  {
    const std::lock_guard lock(mu_);
    device = std::exchange(entry.device, nullptr);
    if (!told) {
      unsettled_.insert(entry.address);  // before the bus gives it to another
    }
  }
  auto removed = told ? bus_.Remove(entry.address) : bus_.Abandon(entry.address);
  if (removed && entry.release) {
    entry.release();
  }
  const std::lock_guard lock(mu_);
  if (!removed) {
    entry.device = device;
    unsettled_.erase(entry.address);
    return removed;
  }
  entry.address.clear();
  return {};
}

Result<Detached> DeviceSet::Detach(const std::string& id, bool force, Time deadline) {
  {
    std::unique_lock lock(mu_);
    const auto settled = [&] {
      const auto found = entries_.find(id);
      return found == entries_.end() || found->second.state == State::kThere;
    };
    if (!changed_.wait_until(lock, deadline, settled)) {
      return Fail(Code::kDeadlineExceeded,
                  "device " + id + " is being attached or detached by another request");
    }
    const auto found = entries_.find(id);
    if (found == entries_.end()) {
      return Fail(Code::kNotFound, "there is no device " + id);
    }
    found->second.state = State::kGoing;
  }
  auto detached = LetGo(id, force, deadline);
  {
    const std::lock_guard lock(mu_);
    if (detached) {
      entries_.erase(id);
      ++counters_[detached->surprise ? "surprise_removals" : "detached"];
    } else {
      At(id).state = State::kThere;
      ++counters_["detach_failures"];
    }
  }
  changed_.notify_all();
  if (!detached) {
    return tl::unexpected(std::move(detached).error().WithContext("device " + id));
  }
  return detached;
}

Result<Detached> DeviceSet::LetGo(const std::string& id, bool force, Time deadline) {
  Entry* entry = nullptr;
  bool told = false;
  {
    // Not while Boot runs.
    const std::lock_guard plug(plug_mu_);
    const std::lock_guard lock(mu_);
    entry = &At(id);
    told = !guest_runs_;
  }
  if (!told) {
    if (MayCarryUpcall(entry->identity)) {
      upcall_
          .Reset();  // another way is found, now that this device is not usable any more, or none
    }
    auto removed = upcall_.PciRemove(entry->address, force, deadline);
    told = removed.has_value();
    if (!told && !force) {
      if (OutcomeIsUnknown(removed.error().code())) {
        // If it has let go after all, it takes it up again; the device is on the bus in any case.
        (void)upcall_.PciRescan(entry->address, entry->identity, Clock::now() + kRollBackTime);
      }
      return tl::unexpected(std::move(removed).error());
    }
  }
  WV_TRY_VOID(Unplug(*entry, told));
  return Detached{.surprise = !told};
}

void DeviceSet::ForEach(
    const std::function<void(const std::string& id, virtio::VirtioDevice&)>& act) const {
  const std::lock_guard lock(mu_);
  for (const auto& [id, entry] : entries_) {
    if (entry.device != nullptr) {
      act(id, *entry.device);
    }
  }
}

Result<> DeviceSet::WithUsable(const std::function<bool(const DeviceIdentity&)>& which,
                               const std::function<Result<>(virtio::VirtioDevice&)>& act) const {
  const std::lock_guard lock(mu_);
  for (const auto& [id, entry] : entries_) {
    if (entry.state == State::kThere && entry.device != nullptr && which(entry.identity)) {
      return act(*entry.device);
    }
  }
  return Fail(Code::kNotFound, "the machine has no such device");
}

size_t DeviceSet::Count(DeviceIdentity::KindCase kind) const {
  const std::lock_guard lock(mu_);
  size_t count = 0;
  for (const auto& [id, entry] : entries_) {
    count += entry.device != nullptr && entry.identity.kind_case() == kind ? 1 : 0;
  }
  return count;
}

DeviceSet::Entry& DeviceSet::At(const std::string& id) {
  const auto found = entries_.find(id);
  WV_CHECK(found != entries_.end());
  return found->second;
}

void DeviceSet::Count(const char* what) {
  const std::lock_guard lock(mu_);
  ++counters_[what];
}

std::map<std::string, uint64_t> DeviceSet::counters() const {
  std::map<std::string, uint64_t> all;
  const std::lock_guard lock(mu_);
  for (const auto& [name, value] : counters_) {
    all["hotplug." + name] = value;
  }
  all["hotplug.unsettled_addresses"] = unsettled_.size();
  return all;
}

}  // namespace wyvern::hotplug
