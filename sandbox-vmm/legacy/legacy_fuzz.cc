// UART, I/O APIC and power registers under any sequence of guest accesses and host events: no crash, no growth.
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "legacy/io_apic.h"
#include "legacy/power.h"
#include "legacy/serial.h"

namespace {

using namespace wyvern;          // NOLINT(google-build-using-namespace): one file, one function
using namespace wyvern::legacy;  // NOLINT(google-build-using-namespace)

// Each step takes 4 bytes: what, where, size, value.
constexpr size_t kStep = 4;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  size_t messages = 0;
  size_t output = 0;
  size_t accesses = 0;
  IoApic io_apic([&](irq::MsiMessage) { ++messages; }, [](const IoApic::PinMessages&) {});
  Serial serial(io_apic.Line(4), [&](std::span<const std::byte> bytes) { output += bytes.size(); });
  PowerRegisters power([](GuestRequest) {});
  PvPanic pvpanic([](GuestRequest) {});

  struct Target {
    bus::BusDevice* device;
    uint64_t size;
  };

  const std::array<Target, 4> targets = {{{&serial, Serial::kPorts},
                                          {&io_apic, IoApic::kSize},
                                          {&power, PowerRegisters::kPorts},
                                          {&pvpanic, 1}}};
  for (size_t at = 0; at + kStep <= size; at += kStep) {
    const unsigned what = data[at] & 7U;
    const uint8_t value = data[at + 3];
    if (what >= 4) {
      if (what == 4) {
        io_apic.EndOfInterrupt(value);
      } else if (what == 5) {
        io_apic.Line(data[at + 1] % IoApic::kPins)->SetLevel((value & 1U) != 0);
      } else {
        const auto byte = static_cast<std::byte>(value);
        serial.Receive(std::span(&byte, 1));
      }
      continue;
    }
    // What the bus lets through: 1, 2, 4 or 8 bytes inside the range.
    const Target& target = targets.at(what);
    const size_t length = size_t{1} << (data[at + 2] & 3U);
    const uint64_t offset = data[at + 1];
    if (length > target.size || offset > target.size - length) {
      continue;
    }
    ++accesses;
    std::array<std::byte, 8> buffer{};
    buffer.fill(static_cast<std::byte>(value));
    if ((data[at + 2] & 0x80U) != 0) {
      target.device->Read(offset, std::span(buffer).first(length));
    } else {
      target.device->Write(offset, std::span(buffer).first(length));
    }
  }
  WV_CHECK(output <= accesses * 8);
  return 0;
}
