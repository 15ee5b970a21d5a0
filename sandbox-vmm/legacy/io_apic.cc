#include "legacy/io_apic.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace wyvern::legacy {

namespace {

constexpr uint64_t kSelectOffset = 0x00;
constexpr uint64_t kWindowOffset = 0x10;

constexpr uint8_t kRegisterId = 0x00;
constexpr uint8_t kRegisterVersion = 0x01;
constexpr uint8_t kRegisterArbitration = 0x02;
constexpr uint8_t kRegisterTable = 0x10;
constexpr uint32_t kVersion = 0x11 | (IoApic::kPins - 1) << 16U;

constexpr uint64_t kDeliveryStatus = 1ULL << 12U;
constexpr uint64_t kRemoteIrr = 1ULL << 14U;
constexpr uint64_t kLevelTriggered = 1ULL << 15U;
constexpr uint64_t kMasked = 1ULL << 16U;
constexpr uint64_t kReadOnlyBits = kDeliveryStatus | kRemoteIrr;

// Intel SDM vol. 3, message address and data formats: destination in bits 12-19, logical mode in bit 2; trigger mode in data bit 15.
irq::MsiMessage MessageOf(uint64_t entry) {
  const uint64_t destination = entry >> 56U;
  const uint64_t logical = (entry >> 11U) & 1U;
  const uint64_t vector = entry & 0xffU;
  const uint64_t delivery = (entry >> 8U) & 7U;
  const uint64_t level = (entry & kLevelTriggered) != 0 ? 1 : 0;
  return irq::MsiMessage{
      .address = 0xfee00000U | destination << 12U | logical << 2U,
      .data = static_cast<uint32_t>(vector | delivery << 8U | level << 14U | level << 15U)};
}

}  // namespace

IoApic::IoApic(SendFunction send, LevelPinsFunction level_pins_changed)
    : send_(std::move(send)), level_pins_changed_(std::move(level_pins_changed)) {
  for (size_t pin = 0; pin < kPins; ++pin) {
    lines_[pin].owner = this;
    lines_[pin].pin = pin;
    redirection_[pin] = kMasked;
  }
}

IoApic::~IoApic() = default;

void IoApic::Deliver(size_t pin) {
  uint64_t& entry = redirection_[pin];
  if ((entry & kMasked) != 0) {
    return;
  }
  if ((entry & kLevelTriggered) != 0) {
    if ((entry & kRemoteIrr) != 0) {
      return;
    }
    entry |= kRemoteIrr;
  }
  send_(MessageOf(entry));
}

void IoApic::SetPin(size_t pin, bool asserted) {
  const std::lock_guard lock(mu_);
  const bool rising = asserted && !asserted_[pin];
  asserted_[pin] = asserted;
  if (rising) {
    Deliver(pin);
  }
}

void IoApic::EndOfInterrupt(uint8_t vector) {
  const std::lock_guard lock(mu_);
  for (size_t pin = 0; pin < kPins; ++pin) {
    uint64_t& entry = redirection_[pin];
    if ((entry & kLevelTriggered) == 0 || (entry & kRemoteIrr) == 0 || (entry & 0xffU) != vector) {
      continue;
    }
    entry &= ~kRemoteIrr;
    if ((entry & kMasked) != 0) {
      PublishLevelPins();  // it was there for this alone
    } else if (asserted_[pin]) {
      Deliver(pin);
    }
  }
}

uint32_t IoApic::ReadRegister() const {
  switch (select_) {
    case kRegisterId:
    case kRegisterArbitration:
      return id_;
    case kRegisterVersion:
      return kVersion;
    default:
      break;
  }
  if (select_ < kRegisterTable || select_ >= kRegisterTable + 2 * kPins) {
    return 0xffffffff;
  }
  const uint64_t entry = redirection_[(select_ - kRegisterTable) / 2U];
  return static_cast<uint32_t>(select_ % 2 == 0 ? entry : entry >> 32U);
}

void IoApic::WriteRegister(uint32_t value) {
  if (select_ == kRegisterId) {
    id_ = value & 0x0f000000U;
    return;
  }
  if (select_ < kRegisterTable || select_ >= kRegisterTable + 2 * kPins) {
    return;
  }
  const size_t pin = (select_ - kRegisterTable) / 2U;
  uint64_t& entry = redirection_[pin];
  const uint64_t before = entry;
  if (select_ % 2 == 0) {
    const uint64_t kept = entry & (0xffffffff00000000ULL | kReadOnlyBits);
    entry = kept | (value & 0x1ffffU & ~kReadOnlyBits);
  } else {
    entry = (entry & 0xffffffffULL) | uint64_t{value} << 32U;
  }
  if ((entry & kLevelTriggered) == 0) {
    entry &= ~kRemoteIrr;
  }
  if (before == entry) {
    return;
  }
  if (((before | entry) & kLevelTriggered) != 0) {
    PublishLevelPins();
  }
  if ((entry & kLevelTriggered) != 0 && asserted_[pin]) {
    Deliver(pin);
  }
}

void IoApic::PublishLevelPins() {
  PinMessages messages;
  for (size_t pin = 0; pin < kPins; ++pin) {
    const uint64_t entry = redirection_[pin];
    // A pin that is masked while in service still has its end of interrupt to come.
    const bool awaited = (entry & kMasked) == 0 || (entry & kRemoteIrr) != 0;
    if ((entry & kLevelTriggered) != 0 && awaited) {
      messages[pin] = MessageOf(entry);
    }
  }
  level_pins_changed_(messages);
}

void IoApic::Read(uint64_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(mu_);
  uint64_t value = 0;
  if (offset == kSelectOffset) {
    value = select_;
  } else if (offset == kWindowOffset) {
    value = ReadRegister();
  }
  std::memcpy(out.data(), &value, std::min(out.size(), sizeof(value)));
}

void IoApic::Write(uint64_t offset, std::span<const std::byte> in) {
  const std::lock_guard lock(mu_);
  uint32_t value = 0;
  std::memcpy(&value, in.data(), std::min(in.size(), sizeof(value)));
  if (offset == kSelectOffset) {
    select_ = static_cast<uint8_t>(value);
  } else if (offset == kWindowOffset && in.size() >= sizeof(value)) {
    WriteRegister(value);
  }
}

}  // namespace wyvern::legacy
