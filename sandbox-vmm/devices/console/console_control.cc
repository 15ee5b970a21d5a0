#include "console/console_control.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/check.h"

namespace wyvern::devices {

ConsoleMessage::ConsoleMessage(uint32_t id, ConsoleEvent event, uint16_t value,
                               std::span<const std::byte> payload) {
  WV_CHECK(payload.size() <= kMaxPayload);
  ConsoleControl control;
  control.id = id;
  control.event = static_cast<uint16_t>(event);
  control.value = value;
  const auto header = std::as_bytes(std::span(&control, 1));
  std::ranges::copy(header, bytes_.begin());
  std::ranges::copy(payload, bytes_.begin() + sizeof(control));
  size_ = header.size() + payload.size();
}

void PortControl::Create(std::string name, bool console, bool driver_ready) {
  WV_CHECK(!state_.exists && name.size() <= ConsoleMessage::kMaxPayload);
  state_.exists = true;
  state_.name = std::move(name);
  state_.console = console;
  if (driver_ready) {
    Owe(kAdd);
  }
}

void PortControl::Remove() {
  state_.exists = false;
  state_.ready = false;
  state_.guest_open = false;
  state_.due = state_.added ? uint8_t{kRemove} : uint8_t{0};
  host_open_ = false;
}

void PortControl::Resize(uint16_t columns, uint16_t rows) {
  state_.columns = columns;
  state_.rows = rows;
  if (state_.ready && state_.console) {
    Owe(kSize);
  }
}

void PortControl::HostOpened() {
  host_open_ = true;
  if (state_.ready) {
    Owe(kOpen);
  }
}

void PortControl::HostClosed() {
  host_open_ = false;
  if ((state_.due & kOpen) != 0) {
    Forget(kOpen);  // the driver has not heard of it yet
  } else if (state_.ready) {
    Owe(kClose);
  }
}

void PortControl::DriverReady() {
  if (state_.exists && !state_.added) {
    Owe(kAdd);
  }
}

bool PortControl::PortReady(bool success) {
  if (!Known()) {
    return false;
  }
  if (!success) {
    return true;  // the driver has failed to make it: it gets nothing to do with it
  }
  state_.ready = true;
  Owe((state_.console ? kConsole : 0) | (state_.name.empty() ? 0 : kName) |
      (host_open_ ? kOpen : 0) |
      (state_.console && (state_.columns != 0 || state_.rows != 0) ? kSize : 0));
  return true;
}

bool PortControl::PortOpen(bool open) {
  if (!Known()) {
    return false;
  }
  state_.guest_open = open;
  return true;
}

void PortControl::Reset() {
  state_.added = false;
  state_.ready = false;
  state_.guest_open = false;
  state_.due = 0;
}

std::optional<ConsoleMessage> PortControl::Next() const {
  switch (state_.due == 0 ? 0U : 1U << static_cast<unsigned>(std::countr_zero(state_.due))) {
    case kRemove:
      return ConsoleMessage(id_, ConsoleEvent::kPortRemove, 0);
    case kAdd:
      return ConsoleMessage(id_, ConsoleEvent::kPortAdd, 0);
    case kConsole:
      return ConsoleMessage(id_, ConsoleEvent::kConsolePort, 1);
    case kName:
      return ConsoleMessage(id_, ConsoleEvent::kPortName, 1, std::as_bytes(std::span(state_.name)));
    case kClose:
      return ConsoleMessage(id_, ConsoleEvent::kPortOpen, 0);
    case kOpen:
      return ConsoleMessage(id_, ConsoleEvent::kPortOpen, 1);
    case kSize: {
      ConsoleSize size;
      size.columns = state_.columns;
      size.rows = state_.rows;
      return ConsoleMessage(id_, ConsoleEvent::kResize, 0, std::as_bytes(std::span(&size, 1)));
    }
    default:
      return std::nullopt;
  }
}

void PortControl::Sent() {
  const unsigned sent = 1U << static_cast<unsigned>(std::countr_zero(state_.due));
  if (sent == kRemove) {
    state_.added = false;
  } else if (sent == kAdd) {
    state_.added = true;
  }
  Forget(sent);
}

void PortControl::Restore(PortControlState state) {
  state_ = std::move(state);
  Forget(~0U << 7U);
  if ((state_.due & kOpen) != 0) {
    Forget(kOpen);
  } else if (state_.ready) {
    Owe(kClose);
  }
}

}  // namespace wyvern::devices
