#include "machine/window_slot.h"

#include <utility>

#include "base/log.h"

namespace wyvern::machine {

WindowSlot::WindowSlot(const kvm::Vm& vm, uint32_t slot,
                       std::shared_ptr<const mem::FileWindow> window)
    : vm_(vm), slot_(slot), window_(std::move(window)) {}

WindowSlot::~WindowSlot() {
  Place(std::nullopt);
}

void WindowSlot::Place(std::optional<mem::Gpa> address) {
  const std::lock_guard lock(mu_);
  if (placed_) {
    if (auto removed = vm_.RemoveMemslot(slot_); !removed) {
      WV_WARN_LIMITED("a device's window stays where it was: {}", removed.error().message());
      return;
    }
    placed_ = false;
  }
  if (!address || window_ == nullptr) {
    return;
  }
  mem::RegionInfo region;
  region.start = *address;
  region.size = window_->size();
  region.host_address = window_->host_address();
  if (auto set = vm_.SetMemslot(slot_, region); !set) {
    WV_WARN_LIMITED("a device's window is nowhere: {}", set.error().message());
    return;
  }
  placed_ = true;
}

bool WindowSlot::Close() {
  Place(std::nullopt);
  const std::lock_guard lock(mu_);
  if (!placed_) {
    window_.reset();
  }
  return !placed_;
}

}  // namespace wyvern::machine
