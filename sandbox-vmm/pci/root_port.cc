#include "pci/root_port.h"

#include <algorithm>
#include <array>

#include "base/endian.h"

namespace wyvern::pci {

namespace {

// A root port that guests know from other machines: the generic one of QEMU.
constexpr Identity kIdentity = {.vendor = 0x1b36,
                                .device = 0x000c,
                                .revision = 0,
                                .class_code = 0x060400,
                                .subsystem_vendor = 0,
                                .subsystem = 0};

// PCI-to-PCI Bridge 1.2 §3.2.
constexpr uint16_t kHeaderType = 0x0e;
constexpr uint8_t kBridgeOfMany = 0x81;  // type 1, of a device with several functions
constexpr uint16_t kBusNumbers = 0x18;   // primary, secondary, subordinate; a byte each
constexpr uint16_t kMemoryBase = 0x20;   // and limit: 2 bytes each, addresses in MiB from bit 4 on
constexpr uint32_t kClosedWindow = 0x0000fff0;  // the base above the limit

// PCI Express 5.0 §7.5.3.
constexpr uint8_t kCapabilityExpress = 0x10;

struct ExpressCapability {
  Le16 capabilities = 0x0042;  // version 2, root port, no slot
  Le32 device = 0x00008000;    // role-based error reporting, payloads of 128 bytes
  Le16 device_control = 0;
  Le16 device_status = 0;
  Le32 link = 0x00000011;  // 2.5 GT/s, one lane
  Le16 link_control = 0;
  Le16 link_status = 0x0011;  // the same
  Le32 slot = 0;
  Le16 slot_control = 0;
  Le16 slot_status = 0x0040;  // something is there: always so without a slot
  Le16 root_control = 0;
  Le16 root_capabilities = 0;
  Le32 root_status = 0;
  Le32 device2 = 0;
  Le16 device_control2 = 0;
  Le16 device_status2 = 0;
  Le32 link2 = 0x00000002;  // 2.5 GT/s
  Le16 link_control2 = 0x0001;
  Le16 link_status2 = 0;
  Le32 slot2 = 0;
  Le16 slot_control2 = 0;
  Le16 slot_status2 = 0;
};

static_assert(sizeof(ExpressCapability) + 2 == 0x3c);

}  // namespace

RootPort::RootPort(uint8_t number) : Function(kIdentity) {
  ConfigSpace& config = set_up();
  config.Set8(kHeaderType, kBridgeOfMany);
  config.Set32(kMemoryBase, kClosedWindow);
  config.AllowWrites(kBusNumbers, Le32(0x00ffffffU));
  config.AllowWrites(kMemoryBase, Le32(0xfff0fff0U));
  ExpressCapability express;
  express.link = express.link.value() | uint32_t{number} << 24U;
  std::array<std::byte, sizeof(express)> writable{};
  writable[6] = std::byte{0xff};  // device control: kept, and nothing more
  writable[7] = std::byte{0x7f};
  config.AddCapability(kCapabilityExpress, std::as_bytes(std::span(&express, 1)), writable);
}

uint8_t RootPort::secondary_bus() {
  return static_cast<uint8_t>(PeekConfig32(kBusNumbers) >> 8U);
}

void RootPort::ReadBar(unsigned /*bar*/, uint64_t /*offset*/, std::span<std::byte> out) {
  std::ranges::fill(out, std::byte{0xff});
}

}  // namespace wyvern::pci
