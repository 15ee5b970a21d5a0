#include "legacy/power.h"

#include <algorithm>
#include <utility>

namespace wyvern::legacy {

namespace {

constexpr unsigned kSleepEnable = 0x20;
constexpr unsigned kSleepTypeS5 = 5;
constexpr unsigned kResetValue = 1;
constexpr unsigned kCommandReset = 0xfe;

constexpr unsigned kPanicked = 1;
constexpr unsigned kCrashLoaded = 2;
constexpr unsigned kShutdown = 4;

}  // namespace

PowerRegisters::PowerRegisters(GuestRequestCallback callback) : callback_(std::move(callback)) {}

void PowerRegisters::Read(uint64_t /*offset*/, std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0});
}

void PowerRegisters::Write(uint64_t offset, std::span<const std::byte> in) {
  const auto value = static_cast<unsigned>(in[0]);
  if (offset == 0 && (value & kSleepEnable) != 0 && ((value >> 2U) & 7U) == kSleepTypeS5) {
    callback_(GuestRequest::kPowerOff);
  } else if (offset == 2 && value == kResetValue) {
    callback_(GuestRequest::kReset);
  }
}

KeyboardReset::KeyboardReset(GuestRequestCallback callback) : callback_(std::move(callback)) {}

void KeyboardReset::Read(uint64_t /*offset*/, std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0});
}

void KeyboardReset::Write(uint64_t /*offset*/, std::span<const std::byte> in) {
  if (static_cast<unsigned>(in[0]) == kCommandReset) {
    callback_(GuestRequest::kReset);
  }
}

PvPanic::PvPanic(GuestRequestCallback callback) : callback_(std::move(callback)) {}

void PvPanic::Read(uint64_t /*offset*/, std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0});
  out[0] = static_cast<std::byte>(kPanicked | kCrashLoaded | kShutdown);
}

void PvPanic::Write(uint64_t /*offset*/, std::span<const std::byte> in) {
  const auto events = static_cast<unsigned>(in[0]);
  if ((events & kPanicked) != 0) {
    callback_(GuestRequest::kPanicked);
  }
  if ((events & kCrashLoaded) != 0) {
    callback_(GuestRequest::kCrashLoaded);
  }
  if ((events & kShutdown) != 0) {
    callback_(GuestRequest::kShutdown);
  }
}

}  // namespace wyvern::legacy
