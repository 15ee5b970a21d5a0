// A guest that writes anywhere in configuration space, of bus 0 and behind root ports, in ports, BARs and the MSI-X table.
// Input:   records of 8 B: operation, size exponent, 2 B offset, 4 B value.
#include <cstring>

#include "irq/testing/fake_interrupts.h"
#include "pci/pci_bus.h"
#include "pci/testing/simple_function.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using wyvern::pci::testing::SimpleFunction;
  wyvern::irq::testing::FakeMsiRouter router;
  router.capacity = 3;
  wyvern::bus::Bus mmio(~uint64_t{0});
  wyvern::pci::PciBus bus(mmio, {.windows = {{0xc0000000, 0x40000}}, .buses = 17});
  (void)bus.Add(std::make_shared<SimpleFunction>(0x1000, &router));
  (void)bus.Add(std::make_shared<SimpleFunction>(0x1000, &router));
  for (int i = 3; i < 30; ++i) {
    (void)bus.Add(std::make_shared<SimpleFunction>(0x1000));
  }
  (void)bus.Add(std::make_shared<SimpleFunction>(0x1000, &router));
  (void)bus.Add(std::make_shared<SimpleFunction>(0x1000, &router));
  constexpr uint64_t kSlots[] = {0, 1, 2, 30};
  std::byte value[8] = {};
  for (; size >= 8; data += 8, size -= 8) {
    const size_t length = size_t{1} << (data[1] & 3U);
    uint16_t offset = 0;
    std::memcpy(&offset, data + 2, 2);
    std::memcpy(value, data + 4, 4);
    // Behind a port, or a function of a slot: by the bits that no register needs.
    const uint64_t where = data[0];
    const uint64_t ecam = where >> 6U << 20U | kSlots[where >> 4U & 3U] << 15U | (offset & 0x7fffU);
    switch (data[0] & 7U) {
      case 0:
        bus.ecam()->Write(ecam, std::span(value).first(length));
        break;
      case 1:
        bus.ecam()->Read(ecam, std::span(value).first(length));
        break;
      case 2:
        bus.config_ports()->Write(offset & 7U, std::span(value).first(length));
        break;
      case 3:
        bus.config_ports()->Read(offset & 7U, std::span(value).first(length));
        break;
      case 4:
        mmio.Write(0xc0000000U + (offset & 0x3fffU), std::span(value).first(length));
        break;
      case 5:
        mmio.Read(0xc0000000U + (offset & 0x3fffU), std::span(value).first(length));
        break;
      case 6:
        if ((offset & 0xffU) == 0) {
          (void)bus.Remove(
              (data[0] & 8U) == 0
                  ? wyvern::pci::Place{.slot = 2}
                  : wyvern::pci::Place{.slot = 30, .port = static_cast<uint8_t>(where >> 7U)});
        }
        break;
      default:
        if ((offset & 0xffU) == 0) {
          (void)bus.Add(std::make_shared<SimpleFunction>(0x1000, &router));
        }
        break;
    }
  }
  return 0;
}
