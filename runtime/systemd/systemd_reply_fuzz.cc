// A message as the bus may send it, whole: what we read of it is a value or an error.
#include <cstddef>
#include <cstdint>

#include "systemd/bus.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern::runtime;
  if (size > static_cast<size_t>(kMaxBusMessage)) {
    return 0;
  }
  const BusMessage message(
      dbus_message_demarshal(reinterpret_cast<const char*>(data), static_cast<int>(size), nullptr));
  if (message != nullptr) {
    static_cast<void>(ReadJobRemoved(message.get()));
    static_cast<void>(ReadObjectPath(message.get()));
    static_cast<void>(ReadTextVariant(message.get()));
  }
  return 0;
}
